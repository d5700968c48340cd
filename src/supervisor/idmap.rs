//! The user namespace that maps the ids of a tree. Called by `launch`. It is not the machine's own: it also
//! maps the host's root, to an id without files, so that host tools inside the machine's mounts
//! (`machinectl copy-to`) can create files there; systemd-nspawn(1) does the same.

use crate::error::Result;
use crate::host::idmap;
use rustix::fd::OwnedFd;

/// The id of the host's root in a tree (systemd's `UID_MAPPED_ROOT`).
const MAPPED_ROOT: u32 = i32::MAX as u32 - 1;

/// Creates a user namespace that maps `count` ids from 0 to `base`, and the host's root.
///
/// # Errors
/// Any error of clone3(2) and of writing the map files.
pub(crate) fn namespace(base: u32, count: u32) -> Result<OwnedFd> {
    let ranges = [(0, base, count), (MAPPED_ROOT, 0, 1)];
    idmap::namespace(&ranges, &ranges)
}
