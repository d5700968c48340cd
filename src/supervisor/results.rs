//! The results of a build session: at its end their files belong to the caller. Called by `cleanup`, after the
//! processes of the session have ended. It follows no link and leaves other file systems alone.

use crate::error::{Context, Error, Result};
use crate::state::record::Record;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Uid};
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::path::Path;

/// The deepest directory whose files get their owner: each level needs a descriptor.
const DEPTH: usize = 256;
/// The bits that a result must not have: programs with the rights of their owner.
const SETUID: u32 = 0o6000;

/// Gives the files of a session in its directories of results to its caller, without setuid bits. Problems are
/// logged.
pub(super) fn give(record: &Record) {
    let Some(build) = &record.build else { return };
    let base = record.id_base.unwrap_or_default();
    let owners = Owners { range: base..base.saturating_add(build.id_count), caller: build.caller };
    for directory in &build.results {
        owners
            .give_below(directory)
            .context(|| format!("cannot change the owners of results in '{}'", directory.display()))
            .unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    }
}

/// The owners of results before and after.
struct Owners {
    /// The ids of the session. From 0 on if its users are those of the host.
    range: std::ops::Range<u32>,
    /// User and group of the caller.
    caller: (u32, u32),
}

impl Owners {
    fn give_below(&self, directory: &Path) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = rustix::fs::open(directory, flags, Mode::empty()).context(|| "cannot open it")?;
        let device = rustix::fs::fstat(&top).context(|| "cannot look at it")?.st_dev;
        self.give_entries(&top, device, DEPTH)
    }

    fn give_entries(&self, directory: &OwnedFd, device: u64, depth: usize) -> Result<()> {
        if depth == 0 {
            return Err(Error::new(format!("directories are nested deeper than {DEPTH}")));
        }
        for name in names(directory)? {
            let stat = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)
                .context(|| "cannot look at a file")?;
            if stat.st_dev != device {
                continue;
            }
            self.give_one(directory, &name, &stat)
                .context(|| format!("'{}'", name.to_string_lossy().escape_debug()))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(directory, &name, flags, Mode::empty())
                    .context(|| "cannot open a directory")?;
                self.give_entries(&below, device, depth - 1)?;
            }
        }
        Ok(())
    }

    /// Changes the owner of a file of the session. The kernel removes file capabilities with the owner.
    fn give_one(&self, directory: &OwnedFd, name: &CString, stat: &Stat) -> Result<()> {
        let (user, group) = (self.range.contains(&stat.st_uid), self.range.contains(&stat.st_gid));
        let user = user.then(|| Uid::from_raw(self.caller.0));
        let group = group.then(|| Gid::from_raw(self.caller.1));
        if user.is_some() || group.is_some() {
            rustix::fs::chownat(directory, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && stat.st_mode & SETUID != 0 {
            // Not blocked by a fifo that has replaced the file.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(stat.st_mode & 0o1777))?;
        }
        Ok(())
    }
}

/// Returns the names in a directory.
fn names(directory: &OwnedFd) -> Result<Vec<CString>> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.context(|| "cannot read a directory")?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}
