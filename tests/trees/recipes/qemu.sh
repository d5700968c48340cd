# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# The emulator of QEMU for programs of arm64, which needs no library.
SUITE=trixie
VARIANT=extract
INCLUDE=qemu-user

customize() {
	local root=$1
	find "$root" -depth -not -path "$root/usr/bin/qemu-aarch64" -not -type d -delete
	find "$root" -mindepth 1 -type d -empty -delete
	mkdir -p "$root"/{dev,proc}
}
