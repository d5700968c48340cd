//! Paths below a directory, of any length, without symbolic links.

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::path::{Path, PathBuf};

/// The length of the shortest path that is too long for a system call (path_resolution(7), `PATH_MAX`).
pub(super) const LONGEST: usize = 4095;

/// Opens a file below a directory, without following links.
pub(super) fn open_below(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) => {}
            opened => return opened,
        }
    }
}

/// Splits a path into parts that are short enough for a system call.
pub(super) fn parts(path: &Path) -> Vec<PathBuf> {
    let mut parts = vec![PathBuf::new()];
    for name in path {
        if let Some(part) = parts.last_mut()
            && part.as_os_str().len() + name.len() + 1 < LONGEST
        {
            part.push(name);
        } else {
            parts.push(PathBuf::from(name));
        }
    }
    parts
}
