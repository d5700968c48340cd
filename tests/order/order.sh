#!/bin/bash
# order.sh BINARY MAP OUT: writes the functions of starts and of a command to OUT, in the order of their first execution.
# The linker places them side by side (`make binary`): a start touches about forty pages less. BINARY was linked with MAP,
# the linker's map of it. As root; a few minutes, because every instruction is traced. Run by `make order`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "$1") map=$2 out=$3
work=$(mktemp -d /var/tmp/coracle-order.XXXXXX)
trap 'rm -rf "$work"' EXIT

cc -O2 -Wall -o "$work/steps" "$here/steps.c"
tree=$("$here/../trees/build.sh" busybox | tail -n1)
mkdir -m 700 "$work/machines"
cp -a "$tree" "$work/machines/tree"

# shellcheck disable=SC2016 # the inner shell expands it
unshare --net --mount --pid --fork --kill-child bash -euo pipefail -c '
	mount -t proc proc /proc
	mount -t tmpfs tmpfs /run
	binary=$1 work=$2
	run=("$binary" run -q -D "$work/machines/tree" --keep-unit --register=no --private-network --console=pipe)
	# The first start after a boot does more.
	"${run[@]}" /bin/true
	"$work/steps" "$work/1" "${run[@]}" /bin/true
	"$work/steps" "$work/2" "${run[@]}" -U /bin/true
	"${run[@]}" -M other /bin/sleep 1000 &
	until "$binary" exec other -- /bin/true 2>/dev/null; do sleep 0.1; done
	# So slow that its time limit for file systems of the guest may end it.
	"$work/steps" "$work/3" "$binary" exec other -- /bin/true || true
' order.sh "$binary" "$work"

# The tracer may finish its report after the command.
sleep 1
# Both lists by address: the sections of the map (VMA LMA SIZE ALIGN FILE:(SECTION)), and the executed addresses with
# their places in the order. A function of Rust has a section of its own, .text.NAME. Those of the C library are in the
# section .text of their file, which the map follows by its symbols: of several, the one with the name of the file counts,
# else the last one, because local symbols come first.
perl -lne '
	sub flush { print "$section ", $own // $last if defined $section && defined($own // $last); undef $section }
	if (/^ *([0-9a-f]+) +[0-9a-f]+ +([0-9a-f]+) +[0-9]+ +(.*):\(([^)]*)\)$/) {
		my ($start, $size, $file, $name) = ($1, $2, $3, $4);
		flush();
		next unless $name =~ /^\.text(\.unlikely)?(\.(.+))?$/;
		($section, $own, $last) = ("$start $size", $3, undef);
		($stem) = defined $own ? () : $file =~ m{([^/(]+?)\.l?o\)?$};
	} elsif (/^ *[0-9a-f]+ +[0-9a-f]+ +[0-9a-f]+ +[0-9]+ +([^ ]+)$/ && defined $section && !defined $own) {
		$own = $1 if defined $stem && $1 eq $stem;
		$last = $1;
	}
	END { flush() }
' "$map" >"$work/sections"
cat "$work"/[123] | awk '!seen[$0]++ { print NR, $0 }' >"$work/executed"
perl -e '
	open my $sections, "<", shift; open my $executed, "<", shift;
	my @sections = sort { $a->[0] <=> $b->[0] } map { [(map { hex } (split)[0, 1]), (split)[2]] } <$sections>;
	my @executed = sort { $a->[1] <=> $b->[1] } map { [(split)[0], hex((split)[1])] } <$executed>;
	my ($at, %first) = (0);
	for (@executed) {
		my ($place, $address) = @$_;
		$at++ while $at < $#sections && $sections[$at + 1][0] <= $address;
		my ($start, $size, $name) = @{$sections[$at]};
		next if $address < $start || $address >= $start + $size;
		$first{$name} = $place if !exists $first{$name} || $place < $first{$name};
	}
	print "$_\n" for sort { $first{$a} <=> $first{$b} } keys %first;
' "$work/sections" "$work/executed" >"$work/order"
[ "$(wc -l <"$work/order")" -gt 100 ] || { echo "order.sh: too few functions were executed" >&2; exit 1; }
mv "$work/order" "$out"
