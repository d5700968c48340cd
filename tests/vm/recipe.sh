# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# The root of the virtual machine: the nested hosts' Debian 13, and what a machine with a kernel of its own needs.
# What is left out makes the boot under emulation take 15 seconds instead of a minute.
# shellcheck source=tests/trees/recipes/host.sh
. "${BASH_SOURCE[0]%/*}/../trees/recipes/host.sh"
INCLUDE+=,apparmor,fdisk,cryptsetup-bin

eval "nested_$(declare -f customize)"

customize() {
	local root=${1:?} module
	nested_customize "$root"
	echo vm >"$root/etc/hostname"
	echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
	ln -sfn /usr/lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
	mask "$root" getty.target serial-getty@ttyS0.service systemd-hwdb-update.service ldconfig.service \
		systemd-pcrphase.service systemd-boot-random-seed.service systemd-tpm2-setup.service \
		systemd-tpm2-setup-early.service systemd-hibernate-clear.service systemd-update-done.service \
		modprobe@drm.service modprobe@configfs.service modprobe@efi_pstore.service modprobe@dm_mod.service \
		modprobe@loop.service remote-fs.target systemd-ask-password-console.path systemd-ask-password-wall.path \
		sys-kernel-debug.mount sys-kernel-config.mount sys-kernel-tracing.mount \
		proc-sys-fs-binfmt_misc.automount systemd-binfmt.service systemd-pstore.service \
		systemd-random-seed.service dev-hugepages.mount systemd-sysext.socket systemd-importd.socket \
		systemd-creds.socket systemd-rfkill.socket systemd-network-generator.service \
		systemd-udev-load-credentials.service
	mkdir -p "$root/etc/systemd/system/systemd-udev-trigger.service.d" "$root/etc/modprobe.d"
	printf '[Service]\nExecStart=\nExecStart=-udevadm trigger --action=add%s\n' \
		" --subsystem-match=block --subsystem-match=net --subsystem-match=virtio-ports --subsystem-match=virtio --subsystem-match=misc" \
		>"$root/etc/systemd/system/systemd-udev-trigger.service.d/test.conf"
	for module in kvm kvm_amd kvm_intel aesni_intel ghash_clmulni_intel sha512_ssse3 sha256_ssse3 sha1_ssse3 \
		crct10dif_pclmul crc32_pclmul crc32c_intel polyval_clmulni cryptd evdev button serio_raw psmouse \
		qemu_fw_cfg ahci i2c_i801 lpc_ich iTCO_wdt pcspkr; do
		echo "blacklist $module"
	done >"$root/etc/modprobe.d/test.conf"
	# the stock profiles take half a minute to compile under emulation; AppArmor itself stays on
	find "$root/etc/apparmor.d" -maxdepth 1 -type f -delete
	printf '[Journal]\nStorage=persistent\nSystemMaxUse=64M\nRateLimitIntervalSec=0\n' \
		>"$root/etc/systemd/journald.conf.d/test.conf"
}
