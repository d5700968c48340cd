#!/bin/bash
# build.sh: the virtual machine of the tests from Debian's packages, or from the cache: kernel, disk image and the
# saved state of the booted machine. Prints the directory as its last line. Takes two or three minutes once.
#
# The cache lies outside the clone (CORACLE_CACHE, default /var/cache/coracle-test). The directory is named after
# the hash of everything it is made from, QEMU included: a saved state fits only the QEMU that wrote it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
trees=$here/../trees
cache=${CORACLE_CACHE:-/var/cache/coracle-test}/vm
readonly here trees cache build_bound=1500 lock_bound=3000 boot_bound=400
tmp='' qemu=''

die() {
	echo "build.sh: $*" >&2
	exit 1
}

# Our own child, so the pid is still ours; what the state directory held goes with it.
clean_up() {
	if [ -n "$qemu" ]; then
		kill -KILL "$qemu" 2>/dev/null || true
		wait "$qemu" 2>/dev/null || true
	fi
	[ -z "$tmp" ] || rm -rf --one-file-system "${tmp:?}"
}

key() {
	{
		cat "$here"/*.{sh,py,c,rs,service} "$trees"/{lib,build}.sh "$trees"/recipes/{host,busybox,trixie}.sh
		qemu-system-x86_64 --version
	} | sha256sum | cut -c1-16
}

say() { echo "build.sh: $* ($SECONDS s)" >&2; }

# programs DIR: the initramfs' init and the agent.
programs() {
	local dir=${1:?}
	gcc -Os -static -s -Wall -Wextra -Werror -o "$dir/init" "$here/init.c"
	rustc --edition 2024 -O -C target-feature=+crt-static -C strip=symbols -o "$dir/agent" "$here/agent.rs"
}

# kernel DIR: Debian's kernel for virtual machines, unpacked into DIR/kernel. Uncompressed: what is unpacked here at
# native speed need not be unpacked under emulation.
kernel() {
	local dir=${1:?} version modules
	mmdebstrap --quiet --variant=extract --mode=root --format=directory \
		--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
		--aptopt='Acquire::Retries "3"' --include=linux-image-cloud-amd64 trixie "$dir/kernel"
	version=$(basename "$dir"/kernel/boot/vmlinuz-*)
	version=${version#vmlinuz-}
	[ -n "$version" ] || die "no kernel in its package"
	/usr/bin/python3 "$here/vmlinux.py" "$dir/kernel/boot/vmlinuz-$version" "$dir/vmlinux"
	modules=$dir/kernel/usr/lib/modules/$version
	find "$modules" -name '*.ko.xz' -print0 | xargs -0 -r -P2 -n50 xz -d
	echo "$version" >"$dir/version"
}

# initramfs DIR: our init and the one module that the root needs.
initramfs() {
	local dir=${1:?} module
	module=$(find "$dir/kernel/usr/lib/modules" -name virtio_blk.ko | head -n1)
	[ -n "$module" ] || die "the kernel has no module 'virtio_blk'"
	mkdir -p "$dir/initramfs/m"
	install -m755 "$dir/init" "$dir/initramfs/init"
	cp "$module" "$dir/initramfs/m/10-virtio_blk.ko"
	(cd "$dir/initramfs" && find . | "$dir/root/usr/bin/busybox" cpio -o -H newc 2>/dev/null) >"$dir/initrd.img"
}

# root DIR: the tree of the disk.
root() {
	local dir=${1:?} guest path
	(
		# shellcheck source=tests/trees/lib.sh
		. "$trees/lib.sh"
		# shellcheck source=tests/vm/recipe.sh
		. "$here/recipe.sh"
		make_tree "$dir/root"
	)
	mkdir -p "$dir/root/usr/lib/modules"
	cp -a "$dir/kernel/usr/lib/modules/." "$dir/root/usr/lib/modules/"
	chroot "$dir/root" depmod "$(cat "$dir/version")"
	install -m755 "$dir/agent" "$dir/root/usr/local/sbin/coracle-test-agent"
	install -m644 "$here/agent.service" "$dir/root/etc/systemd/system/agent.service"
	chroot "$dir/root" systemctl -q enable agent.service
	for guest in busybox trixie; do
		path=$("$trees/build.sh" "$guest" | tail -n1)
		cp -a --reflink=auto "${path:?}" "$dir/root/var/lib/machines/$guest"
	done
}

# state DIR: boots the disk once, as far as `running`, and saves the machine.
state() {
	local dir=${1:?} vm=$here/vm.py status=0
	mkdir "$dir/run"
	"$vm" run "$dir/run" "$dir" --build </dev/null >"$dir/run/log" 2>&1 &
	qemu=$!
	"$vm" ready "$dir/run" -t "$boot_bound" || {
		tail -n 30 "$dir/run/console" "$dir/run/log" >&2 || true
		die "the virtual machine does not boot"
	}
	"$vm" exec "$dir/run" -t "$boot_bound" -- systemctl is-system-running --wait >&2 || {
		"$vm" exec "$dir/run" -t 60 -- systemctl --failed >&2 || true
		die "the virtual machine is not well"
	}
	"$vm" exec "$dir/run" -t 120 -- sh -euc 'journalctl -q --flush; sync; echo 3 >/proc/sys/vm/drop_caches'
	"$vm" save "$dir/run" "$dir/state" -t 120
	wait "$qemu" || status=$?
	qemu=''
	[ "$status" = 0 ] || die "the emulator ended with $status"
}

build() {
	local dir=${1:?}
	mkdir "$dir"
	programs "$dir"
	kernel "$dir"
	say "kernel $(cat "$dir/version")"
	root "$dir"
	say "root tree"
	initramfs "$dir"
	truncate -s 3G "$dir/disk.img"
	mke2fs -q -F -t ext4 -O ^has_journal,^metadata_csum -E lazy_itable_init=1,nodiscard -m 0 \
		-d "$dir/root" "$dir/disk.img"
	rm -rf --one-file-system "$dir"/{kernel,root,initramfs,init,agent}
	say "disk image"
	state "$dir"
	rm -rf "$dir/run"
	say "saved state, $(du -sh "$dir" | cut -f1)"
}

[ "$(id -u)" = 0 ] || die "building the virtual machine needs root"
[[ $cache == /*/* && $cache != *..* ]] || die "bad cache directory '$cache'"
final=$cache/$(key)
if [ ! -d "$final" ]; then
	mkdir -p "$cache"
	exec 9>"$cache/lock"
	flock -w "$lock_bound" 9 || die "another builder did not finish in $lock_bound s"
	if [ ! -d "$final" ]; then
		rm -rf --one-file-system "$cache"/tmp.*
		tmp=$(mktemp -d "$cache/tmp.XXXXXX")
		trap clean_up EXIT
		trap 'exit 143' INT TERM
		# the build ends by itself; what it started is ended by clean_up
		(
			sleep "$build_bound"
			kill -TERM $$
		) </dev/null >/dev/null 2>&1 9>&- &
		guard=$!
		echo "build.sh: building the virtual machine, this takes some minutes" >&2
		build "$tmp/vm" >"$cache/log"
		kill "$guard" 2>/dev/null || true
		sync -f "$tmp/vm"
		mv "$tmp/vm" "$final"
		find "$cache" -maxdepth 1 -name '*.used' -mtime +7 | while read -r stamp; do
			rm -rf --one-file-system "${stamp%.used}" "$stamp"
		done
	fi
	exec 9>&-
fi
touch "$final.used" 2>/dev/null || true
echo "$final"
