# shellcheck shell=bash disable=SC2034,SC1091,SC2016 # lib.sh reads the variables, mmdebstrap expands
# The host of the benchmarks: the test host as of Debian sid, with everybody that coracle is compared with, the newest
# that Debian has. Only `make bench` builds it.
. "${BASH_SOURCE[0]%/*}/host.sh"
SUITE=sid
INCLUDE+=,crun,runc,lxc,bubblewrap,podman,conmon,docker.io,docker-cli,sbuild,schroot,umoci,docker-registry,zstd
# daemons that a test starts where they are needed
OPTIONS+=('--customize-hook=systemctl --root="$1" -q disable docker.service docker.socket containerd.service docker-registry.service')
# a mirror's copy may be some days old
OPTIONS+=('--aptopt=Acquire::Check-Valid-Until "false"')

# systemd's tools of this suite want /proc
chroot() {
	# shellcheck disable=SC2016  # expanded in there
	unshare --mount --propagation private \
		bash -euc 'mount -t proc proc "$1/proc"; exec chroot "$@"' chroot "$@"
}
