# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# A guest: Debian 12 (systemd 252).
SUITE=bookworm
VARIANT=minbase
INCLUDE=systemd,systemd-sysv,dbus,libpam-systemd,libnss-systemd,iproute2,iputils-ping,login,passwd,busybox-static
# as installed systems have it; in later suites the packages see to it themselves
OPTIONS+=(--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr)

customize() { systemd_guest "$1"; }
