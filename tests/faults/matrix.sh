#!/bin/bash
# matrix.sh: injects one failing call or one kill into a start of the machine 'busybox', per line "MODE ROLE
# NUMBER" of standard input. Prints a line for each, with fields separated by tabs: the input line, the call,
# whether the machine started, leftovers, whether the next start and stop work, the error message. Run by
# tests/hosts/matrix.rs in a nested host.
set -u
unit=coracle@busybox.service

left() {
	{
		ls /run/coracle /run/coracle/.locks /run/systemd/nspawn-uid /run/systemd/nspawn/locks
		ls -d /var/lib/machines/.#*
		ls /var/lib/coracle/storage/throwaway
		ip -o link show type veth | cut -d: -f2
		find /sys/fs/cgroup/machine.slice -mindepth 1 -type d -name '*coracle*'
		machinectl --no-legend list
		pgrep -x coracle
		find /run/systemd/network -name "*ve-*"
	} 2>/dev/null | grep -v -e '^$' -e ':$' -e '^/run/.*:$' | tr '\n\t' '; '
}

# Stops the unit, including a hanging start, and waits until it has left nothing behind.
end() {
	timeout 30 systemctl stop $unit >/dev/null 2>&1
	systemctl reset-failed $unit >/dev/null 2>&1
	for _ in $(seq 40); do
		rest=$(left)
		[ -n "$rest" ] || break
		sleep 0.05
	done
}

while read -r mode role number; do
	rm -f /run/faulty.out /var/lib/coracle/failures/busybox.json
	echo "$mode $role $number" >/run/fault
	timeout 40 systemctl start $unit >/dev/null 2>&1
	case $? in 0) started=started ;; 124) started=hangs ;; *) started=failed ;; esac
	rm -f /run/fault
	call=$(cut -d' ' -f4 /run/faulty.out 2>/dev/null)
	[ -z "$call" ] || [ "$started" != failed ] || [ -e /var/lib/coracle/failures/busybox.json ] || sleep 0.05
	said=$(sed -n 's/^ *"cause": "\(.*\)",$/\1/p' /var/lib/coracle/failures/busybox.json 2>/dev/null)
	[ $started = started ] || [ -n "$said" ] ||
		said=$(journalctl -q -u $unit -o cat -n 12 | grep -E 'coracle: |cannot|panick' | head -n1)
	end
	after=$rest
	again=works
	timeout 40 systemctl start $unit >/dev/null 2>&1 || again=refused
	timeout 40 systemctl stop $unit >/dev/null 2>&1 || again=refused
	[ "$(systemctl show -P Result $unit)" = success ] || again=refused
	end
	printf '%s %s %s\t%s\t%s\t%s\t%s\t%s\n' "$mode" "$role" "$number" "${call:-none}" $started "$after$rest" $again "$said"
done
