#!/bin/bash
# runs.sh: injects one failing call or one kill into a `coracle run` with a single child, per line "MODE ROLE
# NUMBER" of standard input. Prints a line for each, with the fields of matrix.sh. A killed run has nobody that
# cleans up after it: the next run does. With FIRST set, each run is the first one after a boot. Run by
# tests/hosts/matrix.rs in a nested host.
set -u
run=(/usr/bin/coracle run -M one -D /var/lib/machines/busybox --keep-unit --register=no --private-network)
run+=(--console=pipe /bin/true)

left() {
	{
		ls /run/coracle /run/coracle/.locks /run/systemd/nspawn-uid /run/systemd/nspawn/locks
		find /sys/fs/cgroup -mindepth 1 -type d -name payload
		# the directory of the empty mount namespace, and the namespace
		grep ' /run/coracle/.mounts' /proc/self/mountinfo | tail -n +3
		pgrep -x coracle
	} 2>/dev/null | grep -v -e '^$' -e ':$' -e '^/run/.*:$' | tr '\n\t' '; '
}

while read -r mode role number; do
	rm -f /run/faulty.out
	if [ -n "${FIRST:-}" ]; then
		umount -l /run/coracle/.mounts/empty
		umount -l /run/coracle/.mounts
		rm -rf /run/coracle/.mounts
	fi 2>/dev/null
	timeout -k 5 40 /usr/bin/faulty "$mode" "$role" "$number" /run/faulty.out "${run[@]}" >/run/said 2>&1
	case $? in 0) started=started ;; 124) started=hangs ;; *) started=failed ;; esac
	call=$(cut -d' ' -f4 /run/faulty.out 2>/dev/null)
	said=$(grep -m1 -E 'coracle: |cannot|panick' /run/said)
	again=works
	timeout 40 "${run[@]}" >/dev/null 2>&1 || again=refused
	printf '%s %s %s\t%s\t%s\t%s\t%s\t%s\n' "$mode" "$role" "$number" "${call:-none}" $started "$(left)" $again "$said"
done
