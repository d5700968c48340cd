#!/bin/bash
# deps.sh [vm]: installs the requirements of building and testing on Debian; with `vm`, also those of the
# virtual machine. Fast if all are installed.
set -euo pipefail

# The version is defined in Cargo.toml.
rust=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$(dirname "$0")/../Cargo.toml")
packages=(bash coreutils findutils gcc libc6-dev libseccomp-dev make tmux mmdebstrap debian-archive-keyring ca-certificates
	iproute2 util-linux shellcheck zsh fish e2fsprogs xfsprogs btrfs-progs erofs-utils crun umoci tar gzip xz-utils zstd bzip2
	libarchive-tools skopeo podman buildah oci-image-tool libcap2-bin python3 docker-registry openssl)
[ "${1:-}" != vm ] || packages+=(qemu-system-x86 lz4)
musl=x86_64-unknown-linux-musl
readonly rust packages musl

die() {
	echo "deps.sh: $*" >&2
	exit 1
}

installed() {
	dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed
}

# get PACKAGE...
get() {
	[ "$(id -u)" = 0 ] || die "installing needs root; install by hand: $*"
	echo "deps.sh: installing $*" >&2
	DEBIAN_FRONTEND=noninteractive timeout --kill-after=10 600 apt-get -qq update </dev/null
	DEBIAN_FRONTEND=noninteractive timeout --kill-after=10 1200 \
		apt-get -qq install --yes --no-install-recommends "$@" </dev/null >&2
}

# new_enough: whether cargo and its tools are installed in the required version.
new_enough() {
	local have
	have=$(cargo --version 2>/dev/null | cut -d' ' -f2) && [ -n "$have" ] || return 1
	[ "$(printf '%s\n' "$rust" "$have" | sort -V | head -n1)" = "$rust" ] || return 1
	cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1
}

command -v dpkg-query >/dev/null || die "this is no Debian; needed are: ${packages[*]}, and Rust $rust with clippy and rustfmt"
missing=()
for package in "${packages[@]}"; do
	installed "$package" || missing+=("$package")
done
[ ${#missing[@]} = 0 ] || get "${missing[@]}"

if ! new_enough; then
	command -v rustup >/dev/null || get rustup ||
		die "no package 'rustup' for this Debian; install Rust $rust or newer with clippy and rustfmt by hand"
	echo "deps.sh: installing Rust" >&2
	timeout --kill-after=10 1200 rustup toolchain install stable --profile minimal \
		--component clippy --component rustfmt </dev/null >&2
	rustup default stable >&2
	new_enough || die "Rust $rust is needed, this is $(cargo --version 2>&1 || true)"
fi

if command -v rustup >/dev/null && ! [ -d "$(rustc --print sysroot)/lib/rustlib/$musl" ]; then
	timeout --kill-after=10 600 rustup target add "$musl" </dev/null >&2 ||
		echo "deps.sh: Rust's library for musl cannot be had: the binary is built with glibc and starts slower" >&2
fi
