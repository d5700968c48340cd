# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# A guest: Debian 13 with a server for ssh, and the programs of its client.
# shellcheck source=tests/trees/recipes/trixie.sh
. "${BASH_SOURCE[0]%/*}/trixie.sh"
INCLUDE+=,openssh-server,openssh-client
