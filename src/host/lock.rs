//! Lock files as systemd takes them: open-file-description locks on files that are removed with
//! the lock, so that systemd-nspawn and we keep out of each other's trees and id ranges.

use crate::error::{Context, Error, Result};
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};

/// A lock held; it goes with its descriptor, and survives an exec that the descriptor survives.
#[derive(Debug)]
pub struct Lock {
    /// The descriptor that holds it.
    pub descriptor: OwnedFd,
    /// The file, to be removed with the lock.
    pub path: PathBuf,
}

/// Takes an exclusive lock, or tells that somebody has it: `None`.
///
/// # Errors
/// A file that cannot be made.
pub fn take(path: &Path) -> Result<Option<Lock>> {
    let doing = || format!("cannot lock '{}'", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).context(doing)?;
    }
    loop {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let descriptor = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).context(doing)?;
        match fcntl(&descriptor, FcntlArg::F_OFD_SETLK(&whole_file())) {
            Ok(_) => {}
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => return Ok(None),
            Err(errno) => return Err(Error::from(std::io::Error::from(errno))).context(doing),
        }
        // The holder before us removed the file between our opening and our locking it: the lock
        // we have is on a file nobody else will find.
        let ours = rustix::fs::fstat(&descriptor).context(doing)?;
        match rustix::fs::stat(path) {
            Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {
                return Ok(Some(Lock { descriptor, path: path.to_owned() }));
            }
            _ => {}
        }
    }
}

/// Whether somebody holds a lock on a file: any open of it, ours too. Makes nothing.
pub fn is_taken(path: &Path) -> bool {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(descriptor) = rustix::fs::open(path, flags, Mode::empty()) else { return false };
    let mut found = whole_file();
    fcntl(&descriptor, FcntlArg::F_OFD_GETLK(&mut found)).is_ok() && i32::from(found.l_type) != libc::F_UNLCK
}

/// A write lock over all of a file.
fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_lock_excludes_and_ends_with_its_descriptor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/lock");
        let held = super::take(&path).unwrap().unwrap();
        assert!(super::take(&path).unwrap().is_none());
        assert!(super::is_taken(&path));
        assert!(!super::is_taken(&directory.path().join("none")));
        std::fs::remove_file(&held.path).unwrap();
        drop(held);
        assert!(super::take(&path).unwrap().is_some());
    }
}
