# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# The same host as of Debian's unstable (systemd 262 or newer).
# shellcheck source=tests/trees/recipes/host.sh
. "${BASH_SOURCE[0]%/*}/host.sh"
SUITE=sid
# a mirror's copy may be some days old
OPTIONS+=('--aptopt=Acquire::Check-Valid-Until "false"')
