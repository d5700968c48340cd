# shellcheck shell=bash disable=SC2034,SC1091 # lib.sh reads the variables
# The host of the tests with neighbours: the test host with who else rules a host's firewall, none of them started.
. "${BASH_SOURCE[0]%/*}/host.sh"
INCLUDE+=,firewalld,iptables,ufw

eval "host_$(declare -f customize)"
customize() {
	local root=$1
	host_customize "$root"
	chroot "$root" systemctl -q disable firewalld.service ufw.service
	rm -f "$root/etc/systemd/system/multi-user.target.wants/ufw.service"
}
