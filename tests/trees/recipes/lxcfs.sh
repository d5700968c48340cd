# shellcheck shell=bash disable=SC2034 # lib.sh reads the variables
# The program lxcfs and its libraries, unpacked for a host of Debian 13.
SUITE=trixie
VARIANT=extract
INCLUDE=lxcfs,libfuse3-4

customize() { :; }
