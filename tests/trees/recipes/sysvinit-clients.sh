# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# The guest with sysvinit, and programs that ask for addresses, none of them started.
# shellcheck source=tests/trees/recipes/sysvinit.sh
. "${BASH_SOURCE[0]%/*}/sysvinit.sh"
INCLUDE+=,isc-dhcp-client,dhcpcd-base,tcpdump
