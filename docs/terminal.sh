#!/bin/bash
# terminal.sh BINARY: renders docs/top.svg, docs/status.svg and docs/dashboard.svg and prints the terminal session of
# README.md, from a real run. The host is the virtual machine of `make test-vm`, which has all cgroup controllers. Runs as root; needs
# `make deps-vm`; leaves nothing behind but the caches and the pictures.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tests=$here/../tests
binary=$(realpath "${1:?usage: terminal.sh BINARY}")
readonly here tests binary columns=104
state='' qemu='' prometheus=''

die() {
	echo "terminal.sh: $*" >&2
	exit 1
}

clean_up() {
	local child
	for child in $qemu $prometheus; do
		kill -KILL "$child" 2>/dev/null || true
		wait "$child" 2>/dev/null || true
	done
	[ -z "$state" ] || rm -rf --one-file-system "$state"
}

inside() { "$tests/vm/vm.py" exec "$state/vm" -t 180 -- "$@"; }
into() { "$tests/vm/vm.py" exec "$state/vm" -t 300 -i -- "$@"; }

# on_terminal ROWS COMMAND: a shell command on a terminal of the host; what comes on standard input is typed.
on_terminal() { into script -qec "stty rows $1 cols $columns; $2" /dev/null; }

# show COMMAND...: a line of the session, with its output as it is left on the terminal.
show() {
	printf '# %s\n' "$*"
	on_terminal 50 "$*" </dev/null | sed -e 's/\r$//' -e 's/.*\r//' -e 's/^\^@//' -e 's/\x1b\[[0-9;?]*[A-Za-z]//g' || true
}

# add TREE NAME: a machine of the host.
add() {
	# shellcheck disable=SC2016  # expanded by the inner shell
	tar -C "$("$tests/trees/build.sh" "$1" | tail -n1)" -cf - . |
		into sh -euc 'mkdir "/var/lib/machines/$1" && tar -xf - -C "/var/lib/machines/$1"' sh "$2"
}

define() { into tee "/etc/coracle/machines.d/$1.toml" >/dev/null; }

# render FILE TITLE ROWS [OPTION...]: the last screen of the recorded output.
render() {
	"$here/terminal.py" --columns "$columns" --rows "$3" --title "$2" "${@:4}" <"$state/output" >"$here/$1"
}

[ "$(id -u)" = 0 ] || die "must be run as root"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

images=$("$tests/vm/build.sh" | tail -n1)
state=$(mktemp -d /var/tmp/coracle-terminal.XXXXXX)
mkdir "$state/vm"
"$tests/vm/vm.py" run "$state/vm" "$images" </dev/null >"$state/log" 2>&1 &
qemu=$!
"$tests/vm/vm.py" ready "$state/vm" -t 180 >/dev/null || die "the virtual machine did not start: $(cat "$state/log")"
make --no-print-directory -s -C "$here/.." install BINARY="$binary" DESTDIR="$state/staging" >/dev/null
tar -C "$state/staging" --owner=0 --group=0 -cf - usr etc | into sh -euc 'tar -xmf - -C /; systemctl daemon-reload'
inside sh -euc 'hostname host; mv /var/lib/machines/trixie /var/lib/machines/web; mkdir -p /srv/www /etc/coracle/machines.d'
add openrc git
add runit mail

define web <<'TOML'
[network]
ports = ["8080:80"]
[resources]
memory-max = "512M"
[[mount]]
source = "/srv/www"
read-only = true
TOML
define git <<'TOML'
[network]
zone = "lan"
TOML
define mail <<'TOML'
[network]
zone = "lan"
[[mount]]
source = "/srv/spool"
TOML

show coracle start web
show coracle start git
show coracle list
show coracle exec web -- systemctl is-system-running
show coracle start mail
show coracle doctor mail
inside mkdir /srv/spool
show coracle start mail
show coracle list

# Work for the pictures: sorting and packets in one machine, writing in another.
# shellcheck disable=SC2016  # expanded by the inner shell
inside sh -euc '
	repeat() { setsid -f coracle exec "$1" -- sh -c "while :; do $2; done" </dev/null >/dev/null 2>&1; }
	repeat web "seq 500 | sort -r; sleep 1"
	repeat mail "dd if=/dev/zero of=/var/tmp/x bs=64k count=8 conv=fsync; sleep 2"
	setsid -f ping -q -i 0.2 -s 1400 web </dev/null >/dev/null 2>&1'
sleep 60
{
	sleep 15
	printf q
	sleep 3
} | on_terminal 9 "coracle top" >"$state/output"
render top.svg "root@host: coracle top" 9
on_terminal 40 "coracle status web" </dev/null >"$state/output"
render status.svg "root@host" 41 --prompt "coracle status web"

# The dashboard: the metrics of a minute and a half, every two seconds, in a Prometheus of the tree of `make test-callers`.
# shellcheck disable=SC2016  # expanded by the inner shell
inside sh -euc '
	for _ in $(seq 45); do
		echo "@$(date +%s)"; coracle stats --metrics=prometheus; sleep 2
	done' >"$state/scrapes"
tools=$("$tests/trees/build.sh" host-callers-tools | tail -n1)
tool=("$tools/lib64/ld-linux-x86-64.so.2" --library-path "$tools/usr/lib/x86_64-linux-gnu")
"$here/dashboard.py" openmetrics <"$state/scrapes" >"$state/metrics"
"${tool[@]}" "$tools/usr/bin/promtool" tsdb create-blocks-from openmetrics "$state/metrics" "$state/tsdb" >"$state/log" 2>&1 || die "$(cat "$state/log")"
readonly address=127.0.0.1:19090
echo 'global: {}' >"$state/prometheus.yml"
"${tool[@]}" "$tools/usr/bin/prometheus" --config.file="$state/prometheus.yml" --storage.tsdb.path="$state/tsdb" --storage.tsdb.retention.time=10y \
	--web.listen-address="$address" >"$state/log" 2>&1 &
prometheus=$!
for _ in {1..100}; do
	! (exec 3<>"/dev/tcp/${address%:*}/${address#*:}") 2>/dev/null || break
	sleep 0.2
done
begin=$(sed -n 's/^@//p' "$state/scrapes" | head -n1)
end=$(sed -n 's/^@//p' "$state/scrapes" | tail -n1)
"$here/dashboard.py" draw "$here/../contrib/grafana/coracle.json" "http://$address" "$((begin + 10))" "$end" >"$state/dashboard.svg"
mv "$state/dashboard.svg" "$here/dashboard.svg"
