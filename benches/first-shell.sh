#!/bin/bash
# first-shell.sh [REPOSITORY]: prints the time from `git clone` to a command in a booted Debian machine, by steps: what a
# reader of README.md waits for. Runs as root. Rust, its crates and the packages of Debian come from the network or from
# the caches of this machine; CORACLE_CACHE names an empty directory to build the Debian tree, too.
set -euo pipefail

repository=${1:-$(cd "$(dirname "$0")/.." && pwd)}
state=$(mktemp -d /var/tmp/first-shell.XXXXXX)
trap 'rm -rf --one-file-system "$state"' EXIT
begin=$EPOCHREALTIME last=$EPOCHREALTIME

# step NAME COMMAND...: runs a step, and prints its time.
step() {
	local name=$1
	shift
	"$@" >"$state/log" 2>&1 </dev/null || {
		echo "first-shell.sh: '$*' failed:" >&2
		tail -n 20 "$state/log" >&2
		exit 1
	}
	local now=$EPOCHREALTIME
	printf '%-44s %8.1f s\n' "$name" "$(seconds "$last" "$now")"
	last=$now
}

# seconds FROM TO: the seconds between two times.
seconds() { awk -v from="$1" -v to="$2" 'BEGIN { print to - from }'; }

export CARGO_TARGET_DIR=$state/coracle/target
step 'git clone' git clone --quiet "$repository" "$state/coracle"
cd "$state/coracle"
step 'make deps (packages and Rust)' make --no-print-directory deps
step 'make binary' make --no-print-directory binary
step 'make install' make --no-print-directory install DESTDIR="$state/root"
step 'Debian tree, boot, command, power off' tests/demo.sh "$state/root/usr/bin/coracle"
printf '%-44s %8.1f s\n' 'from git clone to a command in a machine' "$(seconds "$begin" "$EPOCHREALTIME")"
