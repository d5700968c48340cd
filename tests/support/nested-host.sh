#!/bin/bash
# nested-host.sh: sets up the mounts of a nested host and executes its systemd. Started by host.rs as PID 1 of
# new mount, uts, ipc, net, pid and cgroup namespaces; refuses to run in any other.
#
# Environment: STATE (state directory with upper, work, root, machines, vartmp), TREE (lower root tree), NAME,
# OUTER_MNT (the mount namespace of the caller, in which it must not run), BINDS ("SRC:DST SRC:DST", may be
# empty), NETWORKD (0 or 1).
set -euo pipefail

refuse() {
	echo "nested-host.sh: $*, refusing" >&2
	exit 99
}

# The rest mounts over system paths: with an empty variable, those would be paths of the outer system.
: "${STATE:?}" "${TREE:?}" "${NAME:?}" "${OUTER_MNT:?}" "${NETWORKD:?}" "${BINDS?}"
[ $$ = 1 ] || refuse "not PID 1 of a new pid namespace"
[[ $OUTER_MNT == mnt:\[*\] ]] || refuse "'$OUTER_MNT' names no mount namespace"
[ "$(readlink /proc/self/ns/mnt)" != "$OUTER_MNT" ] || refuse "still in the outer mount namespace"
path='^(/[A-Za-z0-9._-]+)+$'
for p in "$STATE" "$TREE"; do
	[[ $p =~ $path && $p != *..* && -d $p ]] || refuse "'$p' is no plain absolute directory"
done
[ -f "$STATE/nested-host" ] || refuse "'$STATE' is not marked as a nested host's state"
[ -x "$TREE/usr/lib/systemd/systemd" ] || refuse "'$TREE' holds no systemd"
[[ $NAME =~ ^[A-Za-z0-9-]+$ ]] || refuse "bad name '$NAME'"
r=$STATE/root
for d in upper work root machines vartmp; do
	[[ -d $STATE/$d && ! -L $STATE/$d ]] || refuse "no directory '$STATE/$d'"
done

mount -t overlay overlay -o "lowerdir=$TREE,upperdir=$STATE/upper,workdir=$STATE/work" "$r"
mount --make-private "$r"
mkdir -p "$r"/{proc,sys,dev,run,tmp,var/lib/machines,var/tmp,oldroot}
# the real file system: an overlay can neither be idmapped nor be the upper layer of an overlay
mount --bind "$STATE/machines" "$r/var/lib/machines"
mount --bind "$STATE/vartmp" "$r/var/tmp"
chmod 1777 "$r/var/tmp"
mount -t proc -o nosuid,nodev,noexec proc "$r/proc"
mount -t sysfs -o nosuid,nodev,noexec sysfs "$r/sys"
# read-only per mount, not per superblock (a read-only superblock would make every sysfs mount in a user
# namespace "too revealing"); a read-only /sys also keeps systemd-udevd from starting
mount -o remount,bind,ro,nosuid,nodev,noexec "$r/sys"
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 "$r/sys/fs/cgroup"

mount -t tmpfs -o mode=755,nosuid tmpfs "$r/dev"
mkdir "$r"/dev/{pts,shm,net,mqueue}
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$r/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$r/dev/shm"
mount -t mqueue mqueue "$r/dev/mqueue"
node() { mknod -m "$5" "$r/dev/$1" "$2" "$3" "$4"; }
node null c 1 3 666
node zero c 1 5 666
node full c 1 7 666
node random c 1 8 666
node urandom c 1 9 666
node tty c 5 0 666
node fuse c 10 229 666
node net/tun c 10 200 666
node loop-control c 10 237 660
node kmsg c 1 11 600
for i in 0 1 2 3 4 5 6 7; do node loop$i b 7 $i 660; done
ln -s pts/ptmx "$r/dev/ptmx"
ln -s /proc/self/fd "$r/dev/fd"
ln -s /proc/self/fd/0 "$r/dev/stdin"
ln -s /proc/self/fd/1 "$r/dev/stdout"
ln -s /proc/self/fd/2 "$r/dev/stderr"
: >"$r/dev/console"
mount --bind "$r/dev/null" "$r/dev/console"

mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$r/run"
# complete instances, so that nested user namespaces may mount their own proc and sysfs (kernel:
# mount_too_revealing)
mkdir -p "$r/run/host/proc" "$r/run/host/sys"
mount -t proc -o nosuid,nodev,noexec proc "$r/run/host/proc"
mount -t sysfs -o nosuid,nodev,noexec sysfs "$r/run/host/sys"
echo nested-host >"$r/run/host/container-manager"

# the global sysctls of the kernel are read-only; the namespaced ones stay writable
mount --bind "$r/proc/sys" "$r/proc/sys"
mount --bind "$r/proc/sys/net" "$r/proc/sys/net"
mount --bind "$r/proc/sys/user" "$r/proc/sys/user"
for f in ns_last_pid hostname domainname shmmax shmall shmmni msgmax msgmnb msgmni sem; do
	mount --bind "$r/proc/sys/kernel/$f" "$r/proc/sys/kernel/$f"
done
mount -o remount,bind,ro "$r/proc/sys"
[ ! -e "$r/proc/sysrq-trigger" ] || mount --bind "$r/dev/null" "$r/proc/sysrq-trigger"

for b in $BINDS; do
	src=${b%%:*} dst=$r${b#*:}
	if [ -d "$src" ]; then
		mkdir -p "$dst"
	else
		mkdir -p "$(dirname "$dst")"
		[ -e "$dst" ] || : >"$dst"
	fi
	mount --rbind "$src" "$dst"
done

[ "$NETWORKD" = 0 ] || chroot "$r" systemctl -q enable systemd-networkd.service
hostname "$NAME"
ip link set lo up
cd "$r"
pivot_root . oldroot
umount -l /oldroot
mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin container=nested-host \
	/usr/lib/systemd/systemd --log-target=journal --show-status=0
