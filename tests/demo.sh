#!/bin/bash
# demo.sh BINARY: creates a Debian tree from packages, boots it as a machine, shows it and powers it off. Runs
# as root, with or without systemd as PID 1. Only the cached tree remains afterwards.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
binary=${1:?usage: demo.sh BINARY}
name=demo-$$
readonly here binary name boot_bound=120 stop_bound=60
state='' supervisor=''

die() {
	echo "demo.sh: $*" >&2
	[ ! -s "$state/console" ] || {
		echo "--- last lines of its console" >&2
		tail -n 30 "$state/console" >&2
	}
	exit 1
}

running() { [ -n "$supervisor" ] && kill -0 "$supervisor" 2>/dev/null; }

# within SECONDS CONDITION...: waits for the condition; fails after SECONDS.
within() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.1
	done
}

clean_up() {
	if running; then
		kill "$supervisor" 2>/dev/null || true
		within 20 ended || kill -KILL "$supervisor" 2>/dev/null || true
		within 5 ended || true
	fi
	[ -z "$state" ] || rm -rf --one-file-system "$state"
}

ended() { ! running; }

bold='' dim='' plain=''
[ ! -t 1 ] || bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'

say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }

typed() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; }

# show COMMAND...: prints and runs a command line.
show() {
	local line="$*"
	typed "${line//"$binary"/coracle}"
	timeout --kill-after=5 60 "$@" </dev/null
}

leader() { timeout 10 "$binary" show "$name" --json 2>/dev/null | sed -n 's/.*"leader": *\([0-9]\+\).*/\1/p' | head -n1; }

has_leader() {
	running || die "the machine stopped before PID 1 was running"
	[ -n "$(leader)" ]
}

# inside COMMAND...: runs a command in the machine.
inside() {
	timeout --kill-after=5 20 "$binary" exec -T -E SYSTEMD_PAGER= "$name" -- "$@" </dev/null
}

guest_is_running() {
	running || die "the machine stopped before it was up"
	local state_inside
	state_inside=$(inside systemctl is-system-running 2>/dev/null) || true
	[ "$state_inside" != degraded ] || {
		inside systemctl --failed --no-pager || true
		die "the machine is up, but some of its units have failed"
	}
	[ "$state_inside" = running ]
}

[ "$(id -u)" = 0 ] || die "must be run as root"
[ -x "$binary" ] || die "'$binary' is not an executable program"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "Create a Debian 13 tree from packages (cached after the first time)"
tree=$("$here/trees/build.sh" trixie | tail -n1)
state=$(mktemp -d /var/tmp/coracle-demo.XXXXXX)
chmod 755 "$state"
cp -a --reflink=auto "$tree" "$state/root"
du -sh "$state/root"

say "Boot it with its own users and network, without any configuration"
began=$EPOCHREALTIME
options=(--boot --network-veth -U -M "$name" -D "$state/root" --console=read-only)
typed "coracle run ${options[*]} &"
"$binary" run "${options[@]}" </dev/null >"$state/console" 2>&1 &
supervisor=$!
within "$boot_bound" has_leader || die "PID 1 is not running after $boot_bound s"
within "$boot_bound" guest_is_running || die "the system is not running after $boot_bound s"
awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "running after %.1f s\n", b - a }'

say "The machine, seen from the host"
show "$binary" list
show "$binary" status "$name"

say "The machine, seen from inside"
for command in "systemctl is-system-running" "ip -brief address" "journalctl --no-pager -b -n 12"; do
	typed "coracle exec $name -- $command"
	# shellcheck disable=SC2086  # words on purpose
	inside $command
done

say "Power it off"
show "$binary" poweroff "$name"
within "$stop_bound" ended || die "the machine did not stop within $stop_bound s"
status=0
wait "$supervisor" || status=$?
supervisor=''
[ "$status" = 0 ] || die "coracle run returned $status"
echo "powered off, status 0"

say "Next steps"
cat <<TEXT
make install                                      # program, units and manual pages
mmdebstrap --include=systemd-sysv,dbus trixie /var/lib/machines/web
coracle start web                                 # on a host with systemd: a unit, registered with machined
coracle list; coracle status web; coracle logs web
coracle shell web
TEXT
