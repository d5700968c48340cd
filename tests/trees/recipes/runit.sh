# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# A guest: Debian 13 with runit.
SUITE=trixie
VARIANT=minbase
INCLUDE=runit-init,runit,initscripts,iproute2,iputils-ping,login,passwd,busybox-static

customize() {
	local root=$1
	open_root "$root"
	# no getty on terminals that a machine does not have
	rm -f "$root"/etc/runit/runsvdir/default/getty-*
}
