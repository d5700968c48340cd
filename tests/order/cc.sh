#!/bin/bash
# cc.sh ARGUMENT...: links the program with the functions of symbols.txt side by side. The names in the list end with a
# hash, which every new version of a dependency changes: a function is found by its name without the hash. Called by rustc
# in place of cc(1) (`make binary`).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
order=$(mktemp)
trap 'rm -f "$order"' EXIT

objects=()
for word; do
	case $word in *.o | *.rlib) objects+=("$word") ;; esac
done
# Archives also contain members that are not objects.
{ nm --defined-only --format=posix "${objects[@]}" 2>/dev/null || true; } | cut -d' ' -f1 | sort -u | perl -e '
	sub name { $_[0] =~ s/17h[0-9a-f]{16}E//r }
	my (%present, %named);
	while (<STDIN>) { chomp; $present{$_} = 1; push @{$named{name($_)}}, $_ }
	open my $list, "<", shift or die "cc.sh: cannot read the list: $!\n";
	while (<$list>) {
		chomp;
		# Those of C have no hash.
		my @same = $present{$_} || name($_) eq $_ ? ($_) : @{$named{name($_)} // []};
		# More are instances of one generic function: a start calls few of them.
		print map { "$_\n" } @same if @same <= 3;
	}
' "$here/symbols.txt" >"$order"
cc "$@" -Wl,--symbol-ordering-file="$order"
