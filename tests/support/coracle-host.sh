#!/bin/bash
# coracle-host.sh: boots a nested host as a machine of coracle, as the alternative to nested-host.sh. Started
# by host.rs in a separate mount namespace, into which it mounts the overlay; refuses to run in any other.
#
# Environment: CORACLE (the binary), STATE (state directory with upper, work, root, machines, vartmp), TREE
# (lower root tree), NAME, OUTER_MNT (the mount namespace of the caller, in which it must not run), BINDS
# ("SRC:DST SRC:DST", may be empty), NETWORKD (0 or 1).
set -euo pipefail

refuse() {
	echo "coracle-host.sh: $*, refusing" >&2
	exit 99
}

: "${CORACLE:?}" "${STATE:?}" "${TREE:?}" "${NAME:?}" "${OUTER_MNT:?}" "${NETWORKD:?}" "${BINDS?}"
[[ $OUTER_MNT == mnt:\[*\] ]] || refuse "'$OUTER_MNT' names no mount namespace"
[ "$(readlink /proc/self/ns/mnt)" != "$OUTER_MNT" ] || refuse "still in the outer mount namespace"
[ -f "$STATE/nested-host" ] || refuse "'$STATE' is not marked as a nested host's state"

mount -t overlay overlay -o "lowerdir=$TREE,upperdir=$STATE/upper,workdir=$STATE/work" "$STATE/root"
[ "$NETWORKD" = 0 ] || chroot "$STATE/root" systemctl -q enable systemd-networkd.service
chmod 1777 "$STATE/vartmp"

options=(--boot --quiet --machine="$NAME" --directory="$STATE/root" --register=no --console=pipe
	# The nested host needs all privileges to confine its own machines.
	--private-users=no --capability=all --private-network
	# The real file system: an overlay can neither be idmapped nor be the upper layer of an overlay.
	--bind="$STATE/machines:/var/lib/machines" --bind="$STATE/vartmp:/var/tmp"
	--bind=/dev/fuse --bind=/dev/net/tun --bind=/dev/loop-control)
for device in /dev/loop[0-7]; do options+=(--bind="$device"); done
for bind in $BINDS; do options+=(--bind="$bind"); done
exec "$CORACLE" run "${options[@]}"
