//! The project of all files of a tree, which quotas are counted for. Called by `image`.

use super::descent;
use crate::error::{Context, Result};
use crate::sys::quota;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{FileType, OFlags};

/// Sets the project of a directory and of the files and directories in it; that of the directory itself last, so that
/// an interrupted change is repeated. Other kinds of files take no space.
///
/// # Errors
/// A directory that cannot be read, or a file system without projects.
pub(crate) fn set(top: BorrowedFd<'_>, project: u32) -> Result<()> {
    descent::each(top, &mut |entry| {
        let setting = || format!("cannot set the project of '{}'", entry.name.to_string_lossy());
        if let Some(directory) = entry.opened {
            return quota::set_project(directory.as_fd(), project, true).context(setting);
        }
        if FileType::from_raw_mode(entry.stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let file = descent::open(entry.parent, entry.name, OFlags::empty()).context(setting)?;
        quota::set_project(file.as_fd(), project, false).context(setting)
    })?;
    quota::set_project(top, project, true).context(|| "cannot set the project of a directory")
}
