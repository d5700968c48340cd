# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# A Debian 13 with everything a machine manager meets on a host: the tree of the nested test hosts.
SUITE=trixie
VARIANT=minbase
INCLUDE=systemd,systemd-sysv,systemd-container,systemd-resolved,systemd-journal-remote,dbus,dbus-user-session,udev,kmod,libpam-systemd
INCLUDE+=,libnss-systemd,libnss-myhostname,libnss-mymachines,iproute2,nftables,iputils-ping,procps,psmisc
INCLUDE+=,util-linux,mount,login,passwd,busybox-static,strace,e2fsprogs,squashfs-tools,uidmap,libcap2-bin
# the service on the bus: polkit, and a client in another language
INCLUDE+=,polkitd,python3-dbus-fast

customize() {
	local root=$1
	open_root "$root"
	ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
	no_timers "$root"
	mask "$root" getty@tty1.service console-getty.service systemd-firstboot.service
	chroot "$root" systemctl -q enable systemd-resolved.service systemd-machined.service
	# networkd is off unless a test asks for it: coracle must work without
	chroot "$root" systemctl -q disable systemd-networkd.service systemd-networkd.socket
	mkdir -p "$root/etc/systemd/journald.conf.d" "$root/var/log/journal" "$root/var/lib/machines"
	# the kernel's log is that of the whole machine, with the lines of other hosts in it
	printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nReadKMsg=no\n' >"$root/etc/systemd/journald.conf.d/test.conf"
	first_boot_done "$root"
}
