# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# The guest of Debian 13 that runs containers itself: with podman, and with machined for coracle.
# shellcheck source=tests/trees/recipes/trixie.sh
. "${BASH_SOURCE[0]%/*}/trixie.sh"
INCLUDE+=,podman,crun,nftables,systemd-container,libnss-mymachines
