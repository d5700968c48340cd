#!/bin/bash
# life.sh SEED SECONDS MACHINE...: starts and stops these machines in random order until the time is over.
# After each action it checks that the expected machines are running and that stopped ones have left nothing
# behind. Several instances run in parallel, each with its own machines. Counts and failures are lines "KIND
# [DETAIL]" of the output. Run by tests/hosts/storm.rs in a nested host.
set -u
RANDOM=$1
end=$((SECONDS + $2))
shift 2
machines=("$@")
declare -A leader

# Prints a property of the unit. systemd may be re-executing itself at the moment: retries.
show() {
	local said
	for _ in $(seq 100); do
		said=$(systemctl show -P "$2" "coracle@$1" 2>/dev/null) && break
		sleep 0.05
	done
	echo "$said"
}

# Waits until the unit has no pending job; prints its state.
settle() {
	local said state job
	for _ in $(seq 1200); do
		said=$(systemctl show -p ActiveState -p Job "coracle@$1" 2>/dev/null) || said=
		state=$(sed -n 's/^ActiveState=//p' <<<"$said")
		job=$(sed -n 's/^Job=//p' <<<"$said")
		case $state in active | inactive | failed) [ "${job:-0}" = 0 ] && break ;; esac
		sleep 0.05
	done
	echo "$state"
}

# Prints the last messages of the unit, on one line.
said() {
	journalctl --sync 2>/dev/null
	journalctl -q --no-pager -u "coracle@$1" -o short-precise -n "${2:-4}" | cut -d' ' -f3,5- | tr '\n' ';'
}

leader_of() {
	sed -n 's/^ *"leader": \([0-9]*\),$/\1/p' "/run/coracle/$1/state.json" 2>/dev/null
}

left() {
	{
		ls -d "/run/coracle/$1" "/sys/class/net/ve-$1"
		# Query machined: an instance activated only now discards terminated machines.
		busctl --timeout=5 call org.freedesktop.machine1 /org/freedesktop/machine1 \
			org.freedesktop.machine1.Manager GetMachine s "$1"
		find /sys/fs/cgroup/machine.slice -mindepth 1 -maxdepth 1 -name "*coracle@$1.service"
	} 2>/dev/null | tr '\n' ' '
}

# Reports a terminated machine that still has state after some seconds.
gone() {
	local rest=
	for _ in $(seq 160); do
		rest=$(left "$1")
		[ -n "$rest" ] || return 0
		sleep 0.05
	done
	echo "leaked $1 after $2: $rest: $(find "/run/coracle/$1" -mindepth 1 -printf '%P ' 2>/dev/null): $(said "$1" 10)"
}

# Reports whether a machine is running.
up() {
	leader[$1]=$(leader_of "$1")
	[ -n "${leader[$1]}" ] && echo started && return
	echo "lost $1: it is active without a leader"
	unset "leader[$1]"
}

begin() {
	local m=$1 state
	systemctl reset-failed "coracle@$m" 2>/dev/null
	if [ $((RANDOM % 3)) -gt 0 ]; then
		systemctl start "coracle@$m" 2>/dev/null
		state=$(settle "$m")
		if [ "$state" = active ]; then
			up "$m"
		else
			echo "refused $m: its start ended $state: $(said "$m")"
		fi
		return
	fi
	systemctl start --no-block "coracle@$m" 2>/dev/null
	sleep "0.$((RANDOM % 3))$((RANDOM % 10))$((RANDOM % 10))"
	strike "$m"
}

# Kills the current processes of the unit.
strike() {
	local m=$1 hit="" which pid
	for which in MainPID ControlPID; do
		pid=$(show "$m" "$which")
		if [ "${pid:-0}" -le 1 ] || ! kill -9 "$pid" 2>/dev/null; then continue; fi
		hit=$which
		echo "killed $which"
		# Wait until systemd has noticed the exit of the process.
		for _ in $(seq 1200); do
			[ "$(show "$m" "$which")" = "$pid" ] || break
			sleep 0.05
		done
	done
	[ -n "$hit" ] || {
		[ "$(settle "$m")" = active ] && up "$m"
		return
	}
	unset "leader[$m]"
	if [ "$(settle "$m")" = active ]; then
		up "$m"
	elif [ "$hit" = MainPID ]; then
		# The next start cleans up after a killed cleanup.
		gone "$m" "a kill"
	fi
}

finish() {
	local m=$1 what=$2
	shift 2
	unset "leader[$m]"
	# The bus may be unavailable at the moment: retry.
	for _ in $(seq 20); do
		"$@" >/dev/null 2>&1 && break
		sleep 0.3
	done
	for _ in $(seq 1200); do
		[ "$(settle "$m")" = active ] || break
		sleep 0.05
	done
	[ "$(settle "$m")" != active ] || {
		echo "lost $m: $what did not end it"
		return
	}
	echo "ended $what"
	gone "$m" "$what"
}

again() {
	local m=$1 was=${leader[$1]} now
	coracle reboot "$m" >/dev/null 2>&1
	for _ in $(seq 600); do
		now=$(leader_of "$m")
		[ -n "$now" ] && [ "$now" != "$was" ] && grep -q '"phase": "running"' "/run/coracle/$m/state.json" && break
		sleep 0.05
	done
	if [ -n "$now" ] && [ "$now" != "$was" ]; then
		leader[$m]=$now
		echo rebooted
	else
		echo "lost $m: it did not come back from a reboot: $(show "$m" ActiveState): $(said "$m" 10)"
		unset "leader[$m]"
	fi
}

act() {
	local m=$1
	if [ -z "${leader[$m]:-}" ]; then
		begin "$m"
		return
	fi
	if [ "$(leader_of "$m")" != "${leader[$m]}" ] || [ ! -d "/proc/${leader[$m]}" ] || [ "$(show "$m" ActiveState)" != active ]; then
		echo "lost $m: untouched, and it is $(show "$m" ActiveState): $(said "$m" 10)"
		unset "leader[$m]"
		return
	fi
	case $((RANDOM % 10)) in
	0 | 1 | 2) strike "$m" ;;
	3) finish "$m" "a killed leader" kill -9 "${leader[$m]}" ;;
	4 | 5) finish "$m" "a stop" systemctl stop "coracle@$m" ;;
	6) finish "$m" "a termination" coracle terminate "$m" ;;
	7) again "$m" ;;
	8) coracle exec -T "$m" -- true </dev/null >/dev/null 2>/tmp/exec.$$ || echo "lost $m: no exec: $(head -n1 /tmp/exec.$$)" ;;
	9) coracle freeze "$m" >/dev/null 2>&1 && finish "$m" "a kill while frozen" kill -9 "$(show "$m" MainPID)" ;;
	esac
}

while [ $SECONDS -lt $end ]; do
	act "${machines[RANDOM % ${#machines[@]}]}"
done
for m in "${machines[@]}"; do
	# A machine left by a killed cleanup is started, which cleans it up. systemd may execute itself again at the
	# moment: then systemctl fails, and the job goes on.
	if [ -d "/run/coracle/$m" ] && [ -z "${leader[$m]:-}" ]; then
		systemctl start "coracle@$m" 2>/dev/null
		[ "$(settle "$m")" != active ] || leader[$m]=$(leader_of "$m")
	fi
	[ -z "${leader[$m]:-}" ] || finish "$m" "a stop" systemctl stop "coracle@$m"
	[ "$(settle "$m")" != active ] || echo "lost $m: it is running at the end: $(said "$m" 20)"
	systemctl reset-failed "coracle@$m" 2>/dev/null
done
rm -f /tmp/exec.$$
