# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# A guest: Debian 13 with OpenRC, which Debian starts from sysvinit's inittab.
SUITE=trixie
VARIANT=minbase
INCLUDE=openrc,sysvinit-core,initscripts,iproute2,iputils-ping,login,passwd,busybox-static

customize() {
	open_root "$1"
	# no getty on terminals that a machine does not have
	sed -i '/getty/s/^[^#]/#&/' "$1/etc/inittab"
}
