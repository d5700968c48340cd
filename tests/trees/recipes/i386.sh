# shellcheck shell=bash disable=SC2034,SC2016 # lib.sh reads the variables, mmdebstrap expands
# A base of build sessions for another architecture: a shell and its tools, unpacked. Nothing of it is executed here.
SUITE=trixie
VARIANT=extract
INCLUDE=dash,coreutils,libc-bin,hostname
# Without updates: a mirror may have old indexes of them for an architecture that few use.
OPTIONS+=(--architectures=i386 '--setup-hook=sed -i "/-updates\|-security/d" "$1/etc/apt/sources.list"')

customize() {
	local root=$1 directory
	mkdir -p "$root"/{dev,proc,sys,run,tmp,root,etc,var/log,usr/sbin,usr/bin}
	chmod 1777 "$root/tmp"
	for directory in bin sbin lib; do
		[ -e "$root/$directory" ] || ln -s "usr/$directory" "$root/$directory"
	done
	[ -e "$root/usr/bin/sh" ] || ln -s dash "$root/usr/bin/sh"
	printf 'root::0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
	printf 'root:x:0:\ntty:x:5:\nnogroup:x:65534:\n' >"$root/etc/group"
}
