# shellcheck shell=bash disable=SC2034,SC1091 # lib.sh reads the variables
# The host of the tests with tools that administrators point at machines: Ansible, Prometheus with its collector, Graphviz.
. "${BASH_SOURCE[0]%/*}/host.sh"
INCLUDE+=,ansible-core,sudo,prometheus,prometheus-node-exporter,graphviz

eval "host_$(declare -f customize)"
customize() {
	local root=$1
	host_customize "$root"
	chroot "$root" systemctl -q disable prometheus.service prometheus-node-exporter.service
}
