# shellcheck shell=bash disable=SC2034,SC1091,SC2016 # lib.sh reads the variables, mmdebstrap expands
# The host of the tests with callers of systemd-nspawn and schroot: the test host with the programs that build and test
# packages and images in machines, and with the part of Debian's archive that they install, as it is signed there, in
# /srv/debian.
. "${BASH_SOURCE[0]%/*}/host.sh"
INCLUDE+=,mkosi,debspawn,obs-build,sbuild,autopkgtest,debootstrap,debian-archive-keyring,python3-minimal,dpkg-dev,devscripts,zstd
INCLUDE+=,mmdebstrap,piuparts,reprotest,diffoscope-minimal,python3-debian,xxd,schroot,lxc,bubblewrap,podman,crun
# debos is unpacked without its emulators: only its virtual machine needs them.
INCLUDE+=,libostree-1-1,busybox-static

# The images and build roots of the tests, the build dependencies of hello and sl, and what autopkgtest and reprotest
# install; apt adds the dependencies.
ARCHIVE='?essential ?priority(required) apt build-essential dpkg-dev fakeroot eatmydata debhelper python3-minimal passwd
	systemd systemd-sysv dbus udev libpam-systemd libnss-systemd iproute2 help2man texinfo libncurses-dev
	adduser apt-utils faketime locales-all sudo'

# archive ROOT: runs while apt's lists are there. The index is that of the whole suite, because the signature covers it.
archive() {
	local root=$1 to=$1/srv/debian work=$1/srv/work
	local dist=$to/dists/$SUITE/main/binary-amd64
	mkdir -p "$dist" "$work/debs/partial"
	# Updates of the suite have indexes of their own.
	# hello is that of Debian 12: mirrors lack a file of the sources of the newer one.
	sed -n "/ $SUITE main/{p; s/^deb /deb-src /p; s/ $SUITE / bookworm /p}" "$root/etc/apt/sources.list" >"$work/sources.list"
	# Without installed packages, all of them are downloaded.
	: >"$work/status"
	export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
	apt() {
		apt-get --yes -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
			-o Dir::State::status="$work/status" -o Dir::Cache::archives="$work/debs" -o Debug::NoLocking=true "$@"
	}
	# index KIND DIRECTORY
	index() {
		local uri
		uri=$(apt indextargets --format '$(URI)' "Identifier: $1" "Codename: $SUITE")
		mkdir -p "$2"
		(cd "$2" && /usr/lib/apt/apt-helper download-file "$uri.xz" "$1.xz")
	}
	# source_of PACKAGE DIRECTORY
	source_of() { mkdir -p "$2" && (cd "$2" && apt source --download-only --only-source "$1"); }
	cp "$root"/var/lib/apt/lists/*_dists_"$SUITE"_InRelease "$to/dists/$SUITE/InRelease"
	apt update
	index Packages "$dist"
	index Sources "$to/dists/$SUITE/main/source"
	source_of sl "$to/pool/main/s/sl"
	source_of hello/bookworm "$root/srv/sources"
	# shellcheck disable=SC2086 # a list
	apt --download-only install $ARCHIVE
	(cd "$work" && apt download debos && dpkg-deb --extract debos_*.deb "$root")
	xz -dc "$dist/Packages.xz" | awk '
		/^Package: / { name = $2 } /^Version: / { version = $2 } /^Architecture: / { arch = $2 }
		/^Filename: / { gsub(/:/, "%3a", version); print name "_" version "_" arch ".deb", $2 }' |
		while read -r file path; do
			[ -f "$work/debs/$file" ] || continue
			mkdir -p "$to/${path%/*}"
			mv "$work/debs/$file" "$to/$path"
		done
	[ -z "$(find "$work/debs" -name '*.deb')" ]
	rm -r "$work"
}
OPTIONS+=("--customize-hook=exec bash -euo pipefail -c '. \"\$0\"; archive \"\$1\"' '${BASH_SOURCE[0]}' \"\$1\"")
