#!/bin/bash
# signals.sh: sends SIGTERM or SIGKILL to a `coracle run` with a scope at one of its system calls, per line "MODE
# 0 NUMBER" of standard input. Prints a line for each, with fields separated by tabs: the input line, the call, the
# exit status, leftovers, whether the next run works. A killed run is cleaned up by `coracle cleanup` or, for an even
# NUMBER, by the next run. Run by tests/hosts/interruption.rs in a nested host.
set -u
run=(/usr/bin/coracle run -M one -D /var/lib/machines/busybox -n --console=pipe /bin/true)
# The end of the run is counted as well.
export FAULTY_EXECUTIONS=99

left() {
	{
		ls /run/coracle /run/coracle/.locks /run/systemd/nspawn/locks
		ip -o link show type veth | cut -d: -f2
		systemctl --no-legend --plain --all list-units coracle-one.scope
		machinectl --no-legend list
		pgrep -x coracle
	} 2>/dev/null | grep -v -e '^$' -e ':$' -e '^/run/.*:$' | tr '\n\t' '; '
}

# Waits until nothing is left.
settle() {
	for _ in $(seq 100); do
		rest=$(left)
		[ -n "$rest" ] || break
		sleep 0.05
	done
}

while read -r mode role number; do
	rm -f /run/faulty.out
	timeout 40 /usr/bin/faulty "$mode" "$role" "$number" /run/faulty.out "${run[@]}" >/dev/null 2>&1
	status=$?
	call=$(cut -d' ' -f4 /run/faulty.out 2>/dev/null)
	[ "$mode" != kill ] || [ $((number % 2)) = 0 ] || coracle cleanup one >/dev/null 2>&1
	rest=
	if [ "$mode" = term ] || [ $((number % 2)) = 1 ]; then settle; fi
	again=works
	timeout 40 "${run[@]}" >/dev/null 2>/run/said || again=$(head -n1 /run/said)
	after=$rest
	settle
	printf '%s %s %s\t%s\t%s\t%s\t%s\n' "$mode" "$role" "$number" "${call:-none}" $status "$after$rest" "$again"
done
