#!/bin/bash
# clones.sh: kills a verb on images at each system call, or lets each call fail, per line "MODE NUMBER" of standard
# input. Prints a line for each fault with a bad result. Run by tests/hosts/clone_faults.rs in a nested host.
#
# $SETUP creates the images $NAMES; $RUNNING is the name of a running machine, or empty; the arguments are "count" or
# "inject", and the command. The files of each image must be those before or after the verb, right after the fault and
# after `coracle prune`, which must leave nothing. The machine must not stay paused.
set -u
cd /var/lib/machines || exit 1
storage=/var/lib/coracle/storage

list() {
	(cd "$1" && find . -name '.#*' -prune -o -printf '%P %y %m %U:%G %l\n' | sort &&
		find . -name '.#*' -prune -o -type f -exec md5sum {} + | sort) | md5sum
}

# Prints the files of an image, as a machine sees them.
view() {
	if [ -d "$1" ]; then
		list "$1"
	elif [ -d "$1.mstack" ]; then
		layers=$(cd "$1.mstack" && find rw/data layer@* -maxdepth 0 2>/dev/null | sort -rV | tr '\n' ':')
		(cd "$1.mstack" && mount -t overlay overlay -o "ro,userxattr,lowerdir=${layers%:}:/run/empty" /mnt) || {
			echo unusable
			return
		}
		list /mnt
		umount /mnt
	elif [ -f "$1" ] && [[ $1 == *.tar* ]]; then
		# Without the times, which are those of each reset.
		{ tar -tf "$1" && tar -xOf "$1"; } 2>&1 | md5sum
	elif [ -f "$1" ]; then
		md5sum <"$1"
	else
		echo none
	fi
}

state() { for name in $NAMES $RUNNING; do view "$name"; done | tr '\n' ' '; }

left() {
	find . $storage/tmp/ $storage/trash/ $storage/redo/ -mindepth 1 -maxdepth 1 \
		\( -name '.#*' -not -name '*.lck' -o -not -path './*' \) 2>/dev/null
	find . -mindepth 2 -maxdepth 2 -path '*.v/*' -name '.#*' -not -name '*.lck'
	coracle prune --dry-run
}

reset() {
	umount /mnt 2>/dev/null
	for name in $NAMES; do rm -rf "$name" "$name.mstack"; done
	rm -rf .#*
	[ -n "$RUNNING" ] || rm -rf $storage/layers
	coracle prune >/dev/null
	eval "$SETUP"
}

mkdir -p /run/empty
export FAULTY_EXECUTIONS=1
action=$1
shift
reset
before=$(state)
if [ "$action" = count ]; then
	faulty count 0 0 /run/faulty.out "$@" >/dev/null || echo "the verb has failed"
	exec grep -c '^0 ' /run/faulty.out
fi
"$@" >/dev/null || echo "the verb has failed"
after=$(state)
case "$before $after" in *unusable*) echo "unusable: $before $after" ;; esac

while read -r mode number; do
	reset
	faulty "$mode" 0 "$number" /run/faulty.out "$@" >/run/out 2>&1
	status=$?
	found=$(state)
	[ "$found" = "$before" ] || [ "$found" = "$after" ] || echo "$mode $number: $found instead of $before or $after"
	[ $status != 0 ] || [ "$found" = "$after" ] || echo "$mode $number: success without the result"
	# The standard library ends a program whose close(2) of a directory fails.
	[ "$mode" = kill ] || [ $status = 0 ] || grep -q -e '^coracle: ' -e 'panicked at /' /run/out || [ "$number" -le 40 ] ||
		echo "$mode $number: no message: $(cat /run/out)"
	[ -z "$RUNNING" ] || timeout 20 coracle exec "$RUNNING" -- true </dev/null || echo "$mode $number: '$RUNNING' is paused"
	coracle prune >/dev/null 2>&1
	pruned=$(state)
	[ "$pruned" = "$before" ] || [ "$pruned" = "$after" ] || echo "$mode $number: $pruned after prune"
	rest=$(left | tr '\n' ' ')
	[ -z "$rest" ] || echo "$mode $number: left: $rest"
done
