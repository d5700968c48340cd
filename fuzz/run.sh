#!/bin/bash
# run.sh ROUNDS [TARGET...]: runs each fuzz target for ROUNDS rounds and prints runs, coverage and findings.
# It replaces cargo-fuzz where that is not installed: LLVM's fuzzer with the coverage of nightly Rust.
set -euo pipefail
cd "$(dirname "$0")"
readonly rounds=$1
shift
[ $# -gt 0 ] || set -- toml nspawn bundle ini words notify store syslog lease channel control tree name partitions archive layer oci testbed schroot
host=$(rustc -vV | sed -n 's/^host: //p')
flags='--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4'
flags+=' -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table'
flags+=' -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=16'
RUSTFLAGS=$flags cargo +nightly build --quiet --release --target "$host"
failed=0
for target in "$@"; do
	grown=$(mktemp -d)
	log=$(mktemp)
	longest=2048
	[[ $target != @(archive|layer) ]] || longest=8192
	limits=(-runs="$rounds" -max_len="$longest" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="artifacts/$target-")
	mkdir -p artifacts "corpus/$target"
	status=ok
	"target/$host/release/$target" "${limits[@]}" "$grown" "corpus/$target" >"$log" 2>&1 || status=FOUND failed=1
	runs=$(grep -o '^Done [0-9]*\|^#[0-9]*' "$log" | grep -o '[0-9]*' | tail -n1)
	covered=$(grep -o 'cov: [0-9]* ft: [0-9]*' "$log" | tail -n1)
	printf '%-10s %s runs, %s, %s\n' "$target" "${runs:-0}" "$covered" "$status"
	[ "$status" = ok ] || tail -n 20 "$log"
	rm -rf "$grown" "$log"
done
exit $failed
