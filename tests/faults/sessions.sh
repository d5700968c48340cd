#!/bin/bash
# sessions.sh: kills a process at one of its calls while a build session begins or ends, per line "PART MODE ROLE NUMBER"
# of standard input. The part is `begin`, with all processes of a begin; `end`, with the supervisor that ends its
# session; or `client`, with the process that asks for the end. Prints a line for each: the fault, the call, what became
# of the session, what is left after it was recovered or ended and after the next session, and whether that works. Run by
# tests/hosts/session_faults.rs in a nested host.
set -u
# Commands must not read the faults.
exec 3<&0 </dev/null
base=/var/lib/machines/base
storage=/var/lib/machines/.storage
begin=(/usr/bin/coracle build begin base --name=k --results=/var/tmp/out)

left() {
	{
		ls -A /run/coracle /run/coracle/.locks /run/systemd/nspawn-uid /run/systemd/nspawn/locks
		ls -A $storage/throwaway $storage/trash
		find /sys/fs/cgroup -mindepth 1 -type d -name 'coracle-*.scope'
		grep -e ' /run/coracle/' -e "$base" /proc/self/mountinfo | grep -v ' /run/coracle/.mounts'
		pgrep -x coracle
		pgrep -f '[c]oracle-hold'
	} 2>/dev/null | grep -v -e '^$' -e ':$' -e '^\.' | tr '\n\t' '; '
}

# Waits until no process begins a session. The command line of this shell contains the script, and that of the tracer
# the command: a begin is what the line starts with.
settle() {
	timeout 20 sh -c 'while pgrep -f "^/usr/bin/coracle build begin" >/dev/null; do sleep 0.02; done' ||
		echo "begins forever"
}

# Waits for the end of the tracer, which ends after the supervisor: that removes changes after its answer.
untraced() {
	timeout 20 sh -c 'while pgrep -x faulty >/dev/null; do sleep 0.02; done' || echo "is traced forever"
}

state() { coracle build list --no-legend | sed -n 's/^k  *base  *\([a-z]*\) .*/\1/p'; }

# Says whether the session does not end although it refuses commands: its supervisor may be about to end it.
refuses() {
	sleep 1
	[ "$(state)" != running ] || echo "refuses commands"
}

# Recovers or ends the session, if there is one.
finish() {
	case $(state) in
	running) coracle build run k -- true || refuses ;;
	dead) coracle build recover k && { coracle build run k -- true || echo "refuses commands"; } ;;
	esac
	if [ -n "$(state)" ]; then
		coracle build end k >/dev/null || echo "does not end"
	fi
	coracle build clean >/dev/null || echo "is not cleaned"
}

again() {
	[ "$(coracle build once base -w / --name=k -- echo works 2>/run/why)" = works ] || echo refused
}

while read -r -u 3 part mode role number; do
	rm -f /run/faulty.out
	fault=(/usr/bin/faulty "$mode" "$role" "$number" /run/faulty.out)
	case $part in
	begin) timeout -k 5 40 "${fault[@]}" "${begin[@]}" ;;
	end)
		FAULTY_FOLLOWED=1 timeout -k 5 40 "${fault[@]}" "${begin[@]}"
		timeout -k 5 40 coracle build end k
		;;
	client)
		"${begin[@]}"
		timeout -k 5 40 "${fault[@]}" /usr/bin/coracle build end k
		;;
	esac >/run/said 2>&1
	status=$?
	became=$(settle; [ $status != 124 ] || echo hangs; state)
	rest=$({
		finish
		untraced
	} 2>/run/why | tr '\n\t' '; ')
	call=$(cut -d' ' -f4 /run/faulty.out 2>/dev/null | head -n 1)
	# The next session removes what a killed removal has left in the trash. Its supervisor ends after its client.
	next=$(again)
	for _ in {1..200}; do
		remains=$(left)
		[ -n "$remains" ] || break
		sleep 0.05
	done
	printf '%s %s %s %s\t%s\t%s\t%s\t%s\n' "$part" "$mode" "$role" "$number" "${call:-none}" \
		"$(tr '\n' ' ' <<<"$became")" "$rest$remains" "$next"
done
