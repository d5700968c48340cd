# shellcheck shell=bash disable=SC2034,SC1091 # lib.sh reads the variables
# The host of the tests with other programs that run images: Docker and podman, not started.
. "${BASH_SOURCE[0]%/*}/host.sh"
INCLUDE+=,docker.io,docker-cli,podman,crun

eval "host_$(declare -f customize)"
customize() {
	local root=$1
	host_customize "$root"
	chroot "$root" systemctl -q disable docker.service docker.socket containerd.service podman.service podman.socket \
		podman-auto-update.service podman-auto-update.timer podman-restart.service podman-clean-transient.service
}
