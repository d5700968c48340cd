//! The entries of a directory tree on one file system, children before their parent. Entries are opened by descriptor,
//! no link is followed, and other mounts are left alone.

use crate::error::{Context, Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use std::ffi::CStr;

/// The maximum depth of a tree: each level needs a descriptor.
const DEEPEST: usize = 512;

/// An entry of a directory.
pub(super) struct Entry<'a> {
    /// The directory that has the entry.
    pub(super) parent: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
    pub(super) stat: &'a Stat,
    /// The entry itself, where it is a directory.
    pub(super) opened: Option<&'a OwnedFd>,
}

/// Calls the visitor with each entry below a directory, on the file system of that directory. Entries that are
/// deleted meanwhile are left out.
///
/// # Errors
/// A directory that cannot be read, a tree that is too deep, or any error of the visitor.
pub(super) fn each(top: BorrowedFd<'_>, visitor: &mut dyn FnMut(&Entry<'_>) -> Result<()>) -> Result<()> {
    let device = rustix::fs::fstat(top).context(|| "cannot look at a directory")?.st_dev;
    below(top, device, 0, visitor)
}

fn below(
    directory: BorrowedFd<'_>,
    device: u64,
    depth: usize,
    visitor: &mut dyn FnMut(&Entry<'_>) -> Result<()>,
) -> Result<()> {
    if depth >= DEEPEST {
        return Err(Error::new(format!("the tree is more than {DEEPEST} directories deep")));
    }
    for entry in Dir::read_from(directory).context(|| "cannot read a directory")? {
        let entry = entry.context(|| "cannot read a directory")?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if stat.st_dev != device {
            continue;
        }
        let opened = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => match open(directory, name, OFlags::DIRECTORY) {
                Err(rustix::io::Errno::NOENT) => continue,
                opened => Some(opened.context(|| format!("cannot open '{}'", name.to_string_lossy()))?),
            },
            _ => None,
        };
        if let Some(opened) = &opened {
            below(opened.as_fd(), device, depth + 1, visitor)?;
        }
        visitor(&Entry { parent: directory, name, stat: &stat, opened: opened.as_ref() })?;
    }
    Ok(())
}

/// Opens an entry for reading.
pub(super) fn open(directory: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags =
        flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}
