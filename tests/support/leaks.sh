#!/bin/sh
# leaks.sh: lists all state in a host that a machine may leave behind, one "kind: value" per line. Run by
# leaks.rs. Omits ids that change on recreation, volatile state of the host's own services, and permitted
# persistent state (/var/lib/coracle).
set -eu

# The mounts of PID 1: target, root, type. Credentials are mounted while a host service starts. The empty mount
# namespace stays until the next boot.
awk '{ for (i = 7; $i != "-"; i++); print "mount: " $5 " root=" $4 " type=" $(i + 1) }' /proc/1/mountinfo |
	grep -v -e '^mount: /run/credentials/systemd-' -e '^mount: /run/coracle/\.mounts[ /]' || true

ip -o link show | sed -E 's/^[0-9]+: ([^:]+): <[^>]*>(.* master ([^ ]+))?.*/link: \1 \2/; s/ (mtu|qdisc) .* master / master /; s/ *$//'
ip -o addr show | awk '{ print "address: " $2, $3, $4 }'
ip -4 route show table all | sed 's/^/route: /; s/ *$//'
ip -6 route show table all | sed 's/ expires [^ ]*//; s/^/route: /; s/ *$//'
ip rule show | sed 's/^/rule: /'
# the numbers of connections change with the connections of running machines
nft -s list ruleset | grep -v '0x[0-9a-f]* ct count over' | sed 's/^/nft: /'

# Network namespaces and processes outside the host's own services. A process may exit during the scan.
own=$(readlink /proc/1/ns/net)
for p in /proc/[0-9]*; do
	cgroup=$(sed -n 's/^0:://p' "$p/cgroup" 2>/dev/null) || continue
	comm=$(cat "$p/comm" 2>/dev/null) || continue
	case $cgroup in /system.slice/systemd-*) continue ;; esac
	net=$(readlink "$p/ns/net" 2>/dev/null) || continue
	[ "$net" = "$own" ] || echo "netns: of a process '$comm' in $cgroup"
	case $comm:$cgroup in coracle*:* | *:/machine.slice/* | *coracle*) echo "process: $comm in $cgroup" ;; esac
done
find /run/netns -mindepth 1 2>/dev/null | sed 's/^/netns: /'

# machine.slice itself stays; the cgroups of the test's commands and of activated host services are volatile
find /sys/fs/cgroup -mindepth 1 -type d | sed 's,^/sys/fs/cgroup,,' | grep -v -E \
	-e '^/exec\.[0-9]+$' -e '^/machine\.slice$' -e '^/system\.slice/(systemd-|system-systemd|system-modprobe|system-dbus)' |
	sed 's/^/cgroup: /'

# Loop devices are global to the kernel: only those with a file of this host, or a deleted file, count.
for b in /sys/block/loop*/loop/backing_file; do
	file=$(cat "$b" 2>/dev/null) || continue
	device=/dev/$(basename "${b%/loop/backing_file}")
	inode=$(losetup -nO BACK-INO "$device" 2>/dev/null | tr -d ' ') || continue
	# Another host has released it since.
	[ -n "$inode" ] || continue
	case $file in
	*' (deleted)') echo "loop: $file" ;;
	*) [ "$(stat -c %i "$file" 2>/dev/null)" != "$inode" ] || echo "loop: $file" ;;
	esac
done

busctl --timeout=5 call org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager ListMachines 2>/dev/null |
	grep -o '"/org/freedesktop/machine1/machine/[^"]*"' | sed 's/^/registration: /' || true
# a failed unit stays until its next start, by design
systemctl list-units --all --plain --no-legend --no-pager 'coracle@*' '*.scope' |
	awk '$1 ~ /^coracle@/ && $3 == "failed" { next }
		$1 !~ /^(init|session-.*)\.scope$/ && $3 != "inactive" { print "unit: " $1, $2, $3 }'

# the directories of locks, the empty mount namespace, and the note about machined stay
for dir in /run/coracle /run/systemd/system /run/systemd/network /run/systemd/transient /run/systemd/machines \
	/run/systemd/nspawn /run/systemd/nspawn-uid /run/lock/coracle; do
	find "$dir" -mindepth 1 2>/dev/null | sed 's/^/file: /'
done | grep -v -e '/session-[^/]*\.scope' -e '^file: /run/systemd/nspawn/locks$' -e '^file: /run/coracle/\.locks$' -e '^file: /run/coracle/\.mounts' -e '^file: /run/coracle/\.machined$' || true
# the propagation directories of the host's own services are volatile
find /run/systemd/propagate /run/systemd/nspawn.propagate -mindepth 1 -maxdepth 1 2>/dev/null | grep -v '/systemd-' | sed 's/^/file: /' || true
find /tmp /var/tmp /dev/shm -maxdepth 1 -name '*coracle*' | sed 's/^/file: /'
find /var/lib/machines -maxdepth 1 -name '.*' ! -name . | sed 's/^/file: /'
exit 0
