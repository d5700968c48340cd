#!/bin/sh
# A chroot style of xbps-src: packages are built in machines of Coracle, as root. Copy this file to
# common/chroot-style/ of void-packages, and write XBPS_CHROOT_CMD=coracle to etc/conf.
set -eu

masterdir=$1 distdir=$2 hostdir=$3 arguments=$4
shift 4
command -v coracle >/dev/null || exit 1
if [ -z "$masterdir" ] || [ -z "$distdir" ]; then
	echo "$0: MASTERDIR and DISTDIR are required" >&2
	exit 1
fi
# shellcheck disable=SC2086 # options
exec coracle run -q $arguments -D "$masterdir" --bind="$distdir:/void-packages" ${hostdir:+--bind="$hostdir:/host"} \
	-- "$@"
