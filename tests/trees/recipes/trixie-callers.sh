# shellcheck shell=bash disable=SC2034,SC1091 # lib.sh reads the variables
# A guest that Ansible can set up: Debian 13 with Python and sudo.
# shellcheck source=tests/trees/recipes/trixie.sh
. "${BASH_SOURCE[0]%/*}/trixie.sh"
INCLUDE+=,python3,python3-apt,sudo
