#!/bin/bash
# build.sh NAME...: builds the named root trees from Debian's packages, or finds them in the cache.
# Prints one path per name, in order, as its last lines. build.sh --list names the trees there are.
#
# The cache lies outside the clone (CORACLE_CACHE, default /var/cache/coracle-test), so that a fresh clone
# need not build again. A tree is named after the hash of everything it is made from; it is built in a
# temporary directory and renamed, so a half-built one never counts. Trees are templates: copy, never boot.
# Older versions of a tree that were not used for a week are removed when it is built anew.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${CORACLE_CACHE:-/var/cache/coracle-test}/trees
readonly here cache build_bound=1500 lock_bound=3000

die() {
	echo "build.sh: $*" >&2
	exit 1
}

list() {
	local file
	for file in "$here"/recipes/*.sh; do
		# the benchmarks' own, which no test needs
		[[ $file == *-bench.sh ]] || basename "$file" .sh
	done
}

# key NAME: what the tree depends on, in short. A recipe NAME-SUITE is made from that of NAME.
key() {
	local base=$here/recipes/${1%%-*}.sh
	[ "$base" != "$here/recipes/$1.sh" ] || base=/dev/null
	cat "$here/build.sh" "$here/lib.sh" "$here/recipes/$1.sh" "$base" | sha256sum | cut -c1-16
}

# build NAME DIR: runs with the lock held, in a shell of its own.
build() {
	local name=$1 dir=$2 began=$SECONDS
	echo "build.sh: building '$name', this takes a minute or two" >&2
	# shellcheck disable=SC2016 # the inner shell expands it
	timeout --kill-after=10 "$build_bound" bash -euo pipefail -c \
		'. "$1/lib.sh"; . "$1/recipes/$2.sh"; make_tree "$3"' build "$here" "$name" "$dir" \
		</dev/null >"$cache/$name.log" 2>&1 || {
		tail -n 30 "$cache/$name.log" >&2
		die "building '$name' failed, the whole log is in '$cache/$name.log'"
	}
	echo "build.sh: built '$name' in $((SECONDS - began)) s, $(du -sh "$dir" | cut -f1)" >&2
}

# prune NAME: removes the versions that have not been used for long. Hosts may run from the newer ones.
prune() {
	local stamp
	find "$cache" -maxdepth 1 -name "$1-*.used" -mtime +7 | while read -r stamp; do
		rm -rf --one-file-system "${stamp%.used}" "$stamp"
	done
}

# ensure NAME: the path of the finished tree on standard output.
ensure() {
	local name=$1 final tmp
	[ -f "$here/recipes/$name.sh" ] || die "no tree '$name'; there are: $(list | xargs)"
	final=$cache/$name-$(key "$name")
	if [ ! -d "$final" ]; then
		[ "$(id -u)" = 0 ] || die "building trees needs root"
		mkdir -p "$cache"
		# The lock is inherited by what we start: when we are killed it stays taken until that has ended too.
		exec 9>"$cache/$name.lock"
		flock -w "$lock_bound" 9 || die "another builder of '$name' did not finish in $lock_bound s"
		if [ ! -d "$final" ]; then
			rm -rf --one-file-system "$cache/tmp.$name".*
			tmp=$(mktemp -d "$cache/tmp.$name.XXXXXX")
			build "$name" "$tmp/tree" >&2
			sync -f "$tmp/tree"
			mv "$tmp/tree" "$final"
			rmdir "$tmp"
			prune "$name"
		fi
		exec 9>&-
	fi
	# Who may not write to the cache may still use it.
	touch "$final.used" 2>/dev/null || true
	echo "$final"
}

case ${1:-} in
'' | --help | -h) die "usage: build.sh NAME... | build.sh --list" ;;
--list) list ;;
*)
	paths=()
	for name in "$@"; do paths+=("$(ensure "$name")"); done
	printf '%s\n' "${paths[@]}"
	;;
esac
