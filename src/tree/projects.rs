//! The project of all files of a tree, which quotas are counted for. Called by `image`. Entries are opened by
//! descriptor, no link is followed, and other mounts are left alone.

use crate::error::{Context, Error, Result};
use crate::sys::quota;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use std::ffi::CStr;

/// The maximum depth of a tree: each level needs a descriptor.
const DEEPEST: usize = 512;

/// Sets the project of a directory and of the files and directories in it; that of the directory itself last, so that
/// an interrupted change is repeated. Other kinds of files take no space.
///
/// # Errors
/// A directory that cannot be read, or a file system without projects.
pub(crate) fn set(top: BorrowedFd<'_>, project: u32) -> Result<()> {
    let device = rustix::fs::fstat(top).context(|| "cannot look at a directory")?.st_dev;
    set_below(top, project, device, 0)?;
    quota::set_project(top, project, true).context(|| "cannot set the project of a directory")
}

fn set_below(directory: BorrowedFd<'_>, project: u32, device: u64, depth: usize) -> Result<()> {
    if depth >= DEEPEST {
        return Err(Error::new(format!("the tree is more than {DEEPEST} directories deep")));
    }
    for entry in Dir::read_from(directory).context(|| "cannot read a directory")? {
        let entry = entry.context(|| "cannot read a directory")?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // A file may be deleted meanwhile.
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_directory = kind == FileType::Directory;
        if stat.st_dev != device || !(is_directory || kind == FileType::RegularFile) {
            continue;
        }
        let setting = || format!("cannot set the project of '{}'", name.to_string_lossy());
        let opened = open(directory, name, is_directory).context(setting)?;
        if is_directory {
            set_below(opened.as_fd(), project, device, depth + 1)?;
        }
        quota::set_project(opened.as_fd(), project, is_directory).context(setting)?;
    }
    Ok(())
}

fn open(directory: BorrowedFd<'_>, name: &CStr, is_directory: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    flags.set(OFlags::DIRECTORY, is_directory);
    rustix::fs::openat(directory, name, flags, Mode::empty())
}
