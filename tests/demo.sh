#!/bin/bash
# demo.sh BINARY: boots a Debian from an empty directory to a running machine, shows it, powers it off.
# Runs as root, with systemd as PID 1 or without. Leaves nothing behind but the cached tree.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
binary=${1:?usage: demo.sh BINARY}
name=demo-$$
readonly here binary name boot_bound=120 stop_bound=60
state='' supervisor=''

die() {
	echo "demo.sh: $*" >&2
	[ ! -s "$state/console" ] || {
		echo "--- the end of its console" >&2
		tail -n 30 "$state/console" >&2
	}
	exit 1
}

running() { [ -n "$supervisor" ] && kill -0 "$supervisor" 2>/dev/null; }

# within SECONDS CONDITION...: whether the condition became true in that time.
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

# show COMMAND...: as a user would type it.
show() {
	local line="$*"
	typed "${line//"$binary"/coracle}"
	timeout --kill-after=5 60 "$@" </dev/null
}

leader() { timeout 10 "$binary" show "$name" --json 2>/dev/null | sed -n 's/.*"leader": *\([0-9]\+\).*/\1/p' | head -n1; }

has_leader() {
	running || die "the machine ended before it was up"
	[ -n "$(leader)" ]
}

# inside COMMAND...: in the machine.
inside() {
	timeout --kill-after=5 20 "$binary" exec -T -E SYSTEMD_PAGER= "$name" -- "$@" </dev/null
}

guest_is_running() {
	running || die "the machine ended before it was up"
	local said
	said=$(inside systemctl is-system-running 2>/dev/null) || true
	[ "$said" != degraded ] || {
		inside systemctl --failed --no-pager || true
		die "the machine is up, but some of its units failed"
	}
	[ "$said" = running ]
}

[ "$(id -u)" = 0 ] || die "needs root"
[ -x "$binary" ] || die "there is no binary '$binary'"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "A Debian 13, from packages (cached after the first time)"
tree=$("$here/trees/build.sh" trixie | tail -n1)
state=$(mktemp -d /var/tmp/coracle-demo.XXXXXX)
chmod 755 "$state"
cp -a --reflink=auto "$tree" "$state/root"
du -sh "$state/root"

say "Boot it: own users, own network, nothing set up before"
began=$EPOCHREALTIME
options=(--boot --network-veth -U -M "$name" -D "$state/root" --console=read-only)
typed "coracle run ${options[*]} &"
"$binary" run "${options[@]}" </dev/null >"$state/console" 2>&1 &
supervisor=$!
within "$boot_bound" has_leader || die "no PID 1 after $boot_bound s"
within "$boot_bound" guest_is_running || die "not running after $boot_bound s"
awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "running after %.1f s\n", b - a }'

say "What the host sees"
show "$binary" list
show "$binary" status "$name"

say "What the machine sees"
for command in "systemctl is-system-running" "ip -brief address" "journalctl --no-pager -b -n 12"; do
	typed "coracle exec $name -- $command"
	# shellcheck disable=SC2086  # words on purpose
	inside $command
done

say "Power it off"
show "$binary" poweroff "$name"
within "$stop_bound" ended || die "still there after $stop_bound s"
status=0
wait "$supervisor" || status=$?
supervisor=''
[ "$status" = 0 ] || die "it ended with status $status"
echo "ended, status 0"

say "To try next"
cat <<TEXT
make install                                      # the program, its units and its manual pages
mmdebstrap --include=systemd-sysv,dbus trixie /var/lib/machines/web
mkdir -p /etc/coracle/machines.d
printf '[root]\ndirectory = "/var/lib/machines/web"\n' >/etc/coracle/machines.d/web.toml
coracle start web                                 # on a systemd host: a unit, registered with machined
coracle list; coracle status web; coracle logs web
coracle shell web
TEXT
