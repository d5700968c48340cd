#!/bin/bash
# file-systems.sh KIND COMMAND...: runs a command with a file system of this kind (xfs, btrfs) at /var/tmp, in a mount
# namespace of its own. The tests of images create their files there. The current directory stays reachable.
set -euo pipefail

if [ "$1" != --inside ]; then
	exec unshare --mount --propagation slave "$0" --inside "$@"
fi
shift
kind=$1
shift

disk=$(mktemp /var/tmp/coracle-disk.XXXXXX)
trap 'rm -f "$disk"' EXIT
truncate --size=16G "$disk"
"mkfs.$kind" -q "$disk"
place=$PWD
# The kernel keeps the deleted file until the namespace ends.
mount -o loop "$disk" /mnt
rm "$disk"
case $place in
/var/tmp/*)
	mkdir -p "/mnt/${place#/var/tmp/}"
	mount --bind "$place" "/mnt/${place#/var/tmp/}"
	;;
esac
chmod 1777 /mnt
mount --move /mnt /var/tmp
cd "$place"
"$@"
