# shellcheck shell=bash disable=SC2034,SC1091 # lib.sh reads the variables
# The host of the tests with clients of the service on the bus, as of Debian 12: GLib's gdbus, and ssh in both directions.
. "${BASH_SOURCE[0]%/*}/host-bookworm.sh"
INCLUDE+=,libglib2.0-bin,openssh-server,openssh-client

eval "host_$(declare -f customize)"
customize() {
	local root=$1
	host_customize "$root"
	chroot "$root" systemctl -q disable ssh.service ssh.socket
}
