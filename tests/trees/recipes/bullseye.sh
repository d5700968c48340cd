# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# A guest: Debian 11 (systemd 247), with /bin, /sbin and /lib beside /usr.
SUITE=bullseye
VARIANT=minbase
INCLUDE=systemd,systemd-sysv,dbus,libpam-systemd,libnss-systemd,iproute2,iputils-ping,login,passwd,busybox-static

customize() { systemd_guest "$1"; }
