# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# The same host as of Debian 12 (systemd 252).
# shellcheck source=tests/trees/recipes/host.sh
. "${BASH_SOURCE[0]%/*}/host.sh"
SUITE=bookworm
# as installed systems have it; in later suites the packages see to it themselves
OPTIONS+=(--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr)
