# shellcheck shell=bash disable=SC2034,SC1091 # lib.sh reads the variables
# The host of the tests with the programs of distributions, which install from small repositories of the tests.
. "${BASH_SOURCE[0]%/*}/host.sh"
INCLUDE+=,mmdebstrap,debootstrap,debian-archive-keyring,ubuntu-keyring,dnf,rpm,createrepo-c,zypper
INCLUDE+=,pacman-package-manager,libarchive-tools,arch-install-scripts,archlinux-keyring,gnupg,zstd
