//! The user namespace by which a tree's ids are mapped. It is not the machine's own: it also maps
//! the host's root, to an id no file has, so that host tools that enter the machine's mounts
//! (`machinectl copy-to`) can create files there; systemd-nspawn(1) does the same.

use crate::error::Result;
use crate::host::idmap;
use rustix::fd::OwnedFd;

/// The id the host's root has in a tree (systemd's `UID_MAPPED_ROOT`).
const MAPPED_ROOT: u32 = i32::MAX as u32 - 1;

/// Makes a user namespace that maps `count` ids from 0 to `base`, and the host's root.
///
/// # Errors
/// What clone3(2) or the map files say.
pub fn namespace(base: u32, count: u32) -> Result<OwnedFd> {
    let ranges = [(0, base, count), (MAPPED_ROOT, 0, 1)];
    idmap::namespace(&ranges, &ranges)
}
