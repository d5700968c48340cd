# shellcheck shell=bash
# lib.sh: what the recipes share. A recipe sets SUITE, VARIANT and INCLUDE, may add to OPTIONS, and may define
# customize ROOT.
OPTIONS=()

# make_tree DIR: the tree of the recipe read before.
make_tree() {
	local root=$1
	# mmdebstrap takes the mirror of the machine it runs on.
	mmdebstrap --quiet --variant="${VARIANT:?}" --mode=root --format=directory \
		--dpkgopt=force-unsafe-io \
		--aptopt='APT::Install-Recommends "false"' \
		--aptopt='Acquire::Languages "none"' \
		--aptopt='Acquire::Retries "3"' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--include="${INCLUDE:?}" "${OPTIONS[@]}" \
		"${SUITE:?}" "$root"
	slim "$root"
	customize "$root"
}

# Defaults, which the recipe overrides.
customize() { :; }

# slim ROOT: removes what tests do not need, so that copies are quick.
slim() {
	local root=$1
	rm -rf "$root"/usr/share/{doc,man,info,locale,bash-completion,zsh,lintian,bug,zoneinfo} \
		"$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb \
		"$root"/var/cache/debconf/*-old "$root"/var/log/{apt,dpkg.log,bootstrap.log,alternatives.log} \
		"$root"/usr/lib/x86_64-linux-gnu/gconv "$root"/usr/lib/udev/hwdb.d "$root"/usr/lib/udev/hwdb.bin \
		"$root"/etc/udev/hwdb.bin
}

# open_root ROOT: root logs in without a password; mmdebstrap copies the machine's own resolv.conf and hostname.
open_root() {
	local root=$1
	sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
	rm -f "$root/etc/resolv.conf" "$root/etc/hostname"
	printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
}

# mask ROOT UNIT...
mask() {
	local root=$1 unit
	shift
	for unit in "$@"; do ln -sfn /dev/null "$root/etc/systemd/system/$unit"; done
}

# no_timers ROOT: removes timers, which would start during a test.
no_timers() {
	mask "$1" apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
		e2scrub_reap.service fstrim.timer systemd-networkd-wait-online.service
}

# in_root ROOT COMMAND...: with a /proc of its own, which newer programs of systemd cannot do without.
in_root() {
	local root=${1:?}
	shift
	unshare --mount --pid --fork --kill-child --mount-proc="$root/proc" chroot "$root" "$@"
}

# first_boot_done ROOT: catalogues, users and caches are made now, not at every first boot.
first_boot_done() {
	local root=$1
	in_root "$root" systemd-sysusers
	in_root "$root" journalctl --update-catalog
	in_root "$root" ldconfig
	# Without a hardware database of its own the update is not needed; it is marked as done below.
	touch "$root/usr"
	# Debian 12 ships no mark of that kind.
	if [ -x "$root/usr/lib/systemd/systemd-update-done" ]; then
		in_root "$root" /usr/lib/systemd/systemd-update-done
	fi
	: >"$root/etc/machine-id"
	rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
}

# systemd_guest ROOT: a guest like a fresh Debian, without timers and network management.
systemd_guest() {
	local root=$1
	open_root "$root"
	no_timers "$root"
	# persistent journal: the guest's own journal can be read from the host, also after its end
	mkdir -p "$root/var/log/journal"
	first_boot_done "$root"
}
