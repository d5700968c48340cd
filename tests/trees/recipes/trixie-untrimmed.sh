# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# A guest: Debian 13 as an administrator installs a server, complete and without masks and its first boot not done.
# shellcheck source=tests/trees/recipes/trixie.sh
. "${BASH_SOURCE[0]%/*}/trixie.sh"
INCLUDE+=,systemd-resolved,systemd-timesyncd,udev,rsyslog,cron,logrotate,openssh-server,nginx,postgresql

# The services need time zones and character sets.
slim() {
	rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/cache/apt/archives/*.deb
}

customize() {
	open_root "$1"
	# as the package of systemd-resolved leaves it
	ln -s ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
	# postgresql's compiler of long queries is a quarter of the tree
	rm -f "$1"/usr/lib/x86_64-linux-gnu/libLLVM*
	rm -f "$1/etc/machine-id" "$1/var/lib/dbus/machine-id"
}
