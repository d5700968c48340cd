# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# A guest: Debian 13 with sysvinit.
SUITE=trixie
VARIANT=minbase
INCLUDE=sysvinit-core,sysv-rc,initscripts,insserv,iproute2,iputils-ping,login,passwd,busybox-static

customize() {
	open_root "$1"
	quiet_inittab "$1"
}

# no getty on terminals that a machine does not have
quiet_inittab() {
	sed -i '/getty/s/^[^#]/#&/' "$1/etc/inittab"
}
