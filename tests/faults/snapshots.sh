#!/bin/bash
# snapshots.sh VERB: injects one failing call or one kill into `coracle snapshot` or `coracle rollback`, of a stack and of a
# directory, per line "MODE NUMBER" of standard input. Prints a line for each fault that ends badly, and the number of
# faults. Run by tests/hosts/snapshots.rs in a nested host, with the images 'web' (a stack) and 'base' (a directory),
# whose snapshot 'one' has another state than the image.
set -u
verb=$1
images=/var/lib/machines
store=/var/lib/coracle/storage

# state DIRECTORY: the text of the file 'state' in an image or a snapshot
state() {
	local entry text=none
	if [ -e "$1/state" ]; then
		cat "$1/state"
		return
	fi
	# Fewer than ten layers: their names have the order of their numbers.
	for entry in "$1"/layer@* "$1"/rw/data; do
		[ ! -e "$entry/state" ] || text=$(cat "$entry/state")
	done
	echo "$text"
}

# set_present: the state of the image before each fault
set_present() {
	case $image in
	web) mkdir -p $images/web.mstack/rw/data && echo present >$images/web.mstack/rw/data/state ;;
	base) echo present >$images/base/state ;;
	esac
}

tags() {
	coracle snapshot --list --no-legend "$image" | cut -d' ' -f1
}

bad() {
	echo "$mode $number: $image: $*: $(tail -n1 /run/said)"
}

# check: compares the state after a fault with those before and after the verb, and repeats the verb
check() {
	local now tag
	now=$(state "$path")
	for tag in $(tags); do
		case $tag:$(state "$store/snapshots/$image/$tag") in
		one:one | two:present | before-rollback-*:present) ;;
		*) bad "snapshot '$tag' has state '$(state "$store/snapshots/$image/$tag")'" ;;
		esac
	done
	case $verb:$now in
	snapshot:present | rollback:present) ;;
	rollback:one) tags | grep -q before-rollback- || bad 'the former state is lost' ;;
	*) bad "the state is '$now'" ;;
	esac
	if [ "$verb" = snapshot ]; then
		tags | grep -qx two || timeout 20 coracle snapshot $image two >/run/said 2>&1 || bad 'no snapshot afterwards'
		timeout 20 coracle snapshot --remove $image two >/run/said 2>&1 || bad 'not removed'
	else
		timeout 20 coracle rollback --discard $image one >/run/said 2>&1 || bad 'no rollback afterwards'
		[ "$(state "$path")" = one ] || bad 'not rolled back'
		for tag in $(tags | grep before-rollback-); do
			timeout 20 coracle snapshot --remove $image "$tag" >/run/said 2>&1 || bad 'not removed'
		done
	fi
	left=$(ls -d $images/.#*.coracle-* $store/tmp/* $store/trash/* /run/systemd/nspawn/locks/* 2>/dev/null)
	[ -z "$left" ] || bad "left: $left"
}

count=0
while read -r mode number; do
	for image in web base; do
		path=$images/$image
		[ $image = base ] || path=$images/web.mstack
		set_present
		words=("$verb" "$image")
		case $verb in snapshot) words+=(two) ;; rollback) words+=(one) ;; esac
		rm -f /run/faulty.out
		timeout -k 5 40 /usr/bin/faulty "$mode" 0 "$number" /run/faulty.out /usr/bin/coracle "${words[@]}" >/run/said 2>&1
		[ $? != 124 ] || bad hangs
		[ "$mode" != count ] || mv /run/faulty.out /run/calls-$image
		check
		count=$((count + 1))
	done
done
echo "tried $count"
