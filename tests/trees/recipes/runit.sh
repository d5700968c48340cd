# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# A guest: Debian 13 with runit.
SUITE=trixie
VARIANT=minbase
INCLUDE=runit-init,runit,initscripts,iproute2,iputils-ping,login,passwd,busybox-static

customize() {
	local root=$1
	open_root "$root"
	# only a maintainer script needed the whole of it
	chroot "$root" sh -c "dpkg-query -W -f '\${Package} ' perl 'libperl5*' 'perl-modules*' |
		xargs dpkg --purge --force-depends"
	# no getty on terminals that a machine does not have
	rm -f "$root"/etc/runit/runsvdir/default/getty-*
}
