# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# A guest of one program: busybox is init, shell and everything else.
SUITE=trixie
VARIANT=extract
INCLUDE=busybox-static

customize() {
	local root=$1 applet
	mkdir -p "$root"/{dev,proc,sys,run,tmp,root,etc,var/log,var/www,usr/sbin,usr/bin}
	chmod 1777 "$root/tmp"
	for applet in bin sbin; do
		[ -e "$root/$applet" ] || ln -s "usr/$applet" "$root/$applet"
	done
	"$root/usr/bin/busybox" --list | while read -r applet; do
		[ "$applet" = busybox ] || ln -sf busybox "$root/usr/bin/$applet"
	done
	ln -sf ../bin/busybox "$root/usr/sbin/init"
	# no getty: the console shows what rcS prints. httpd answers on port 80.
	cat >"$root/etc/inittab" <<'INITTAB'
::sysinit:/etc/rcS
::respawn:/usr/bin/busybox httpd -f -p 80 -h /var/www
::ctrlaltdel:/usr/bin/busybox reboot
::shutdown:/etc/rcK
INITTAB
	printf '#!/bin/sh\nmkdir -p /run /tmp /var/log\necho "busybox: up"\n' >"$root/etc/rcS"
	printf '#!/bin/sh\necho "busybox: down"\n' >"$root/etc/rcK"
	chmod 755 "$root/etc/rcS" "$root/etc/rcK"
	echo 'hello from busybox' >"$root/var/www/index.html"
	printf 'root::0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
	printf 'root:x:0:\ntty:x:5:\nnogroup:x:65534:\n' >"$root/etc/group"
	printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
	printf 'ID=busybox\nPRETTY_NAME="Busybox"\n' >"$root/etc/os-release"
}
