//! The results of a build session: at its end their files belong to the caller. Called by `cleanup`, after the
//! processes of the session have ended. It follows no link and leaves other file systems alone.

use crate::error::{Context, Error, Result};
use crate::state::record::Record;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Uid};
use rustix::io::Errno;
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
    let owners = Owners {
        range: base..base.saturating_add(build.id_count),
        caller: build.caller,
        since: (base == 0).then_some(record.started),
    };
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
    /// The time before which a file is not of the session, microseconds since the epoch: users of the host
    /// have the same ids. `None` for a range of ids that only the session has.
    since: Option<u64>,
}

impl Owners {
    fn give_below(&self, directory: &Path) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = rustix::fs::open(directory, flags, Mode::empty()).context(|| "cannot open it")?;
        let device = rustix::fs::fstat(&top).context(|| "cannot look at it")?.st_dev;
        self.give_entries(&top, device, DEPTH)
    }

    /// Gives the entries of a directory, also those after one that fails.
    ///
    /// # Errors
    /// The first one.
    fn give_entries(&self, directory: &OwnedFd, device: u64, depth: usize) -> Result<()> {
        if depth == 0 {
            // Below it, files keep their owners and setuid bits: no other user may reach them.
            rustix::fs::fchmod(directory, Mode::RWXU).context(|| "cannot close a directory")?;
            return Err(Error::new(format!("directories are nested deeper than {DEPTH}")));
        }
        let mut done = Ok(());
        for name in names(directory)? {
            done = done.and(self.give_entry(directory, &name, device, depth));
        }
        done
    }

    /// Gives a file, and all files below it. One that another process has deleted is no error. The file is held
    /// open: the caller may own the directory and replace it meanwhile.
    fn give_entry(&self, directory: &OwnedFd, name: &CString, device: u64, depth: usize) -> Result<()> {
        let doing = || format!("'{}'", name.to_string_lossy().escape_debug());
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            file => file.context(doing)?,
        };
        let stat = rustix::fs::fstat(&file).context(doing)?;
        if stat.st_dev != device {
            return Ok(());
        }
        let given = self.give_one(directory, name, &file, &stat).context(doing);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return given;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let below = match rustix::fs::openat(&file, ".", flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(()),
            below => below.context(doing).and_then(|below| self.give_entries(&below, device, depth - 1)),
        };
        given.and(below)
    }

    /// Changes the owner of a file of the session. The kernel removes file capabilities with the owner. A device that
    /// the session has created, which it can without a user namespace, is removed.
    fn give_one(
        &self,
        directory: &OwnedFd,
        name: &CString,
        file: &OwnedFd,
        stat: &Stat,
    ) -> rustix::io::Result<()> {
        if self.since.is_some_and(|since| changed(stat) < since) {
            return Ok(());
        }
        let (user, group) = (self.range.contains(&stat.st_uid), self.range.contains(&stat.st_gid));
        let user = user.then(|| Uid::from_raw(self.caller.0));
        let group = group.then(|| Gid::from_raw(self.caller.1));
        let mut owned = Ok(());
        let kind = FileType::from_raw_mode(stat.st_mode);
        if user.is_some() && matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            return rustix::fs::unlinkat(directory, name, AtFlags::empty());
        }
        if user.is_some() || group.is_some() {
            owned = rustix::fs::chownat(file, "", user, group, AtFlags::EMPTY_PATH);
        }
        if kind == FileType::RegularFile && stat.st_mode & SETUID != 0 {
            // Not blocked by a fifo that has replaced the file.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => return owned,
                opened => opened?,
            };
            let found = rustix::fs::fstat(&opened)?;
            if (found.st_dev, found.st_ino) != (stat.st_dev, stat.st_ino) {
                return Err(Errno::STALE);
            }
            rustix::fs::fchmod(opened.as_fd(), Mode::from_raw_mode(stat.st_mode & 0o1777))?;
        }
        owned
    }
}

/// Returns the time of the last change of a file or its attributes, microseconds since the epoch.
fn changed(stat: &Stat) -> u64 {
    let seconds = u64::try_from(stat.st_ctime).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(stat.st_ctime_nsec / 1000)
}

/// Returns the names in a directory.
fn names(directory: &OwnedFd) -> Result<Vec<CString>> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // Another process has deleted the directory.
            Err(Errno::NOENT) => break,
            entry => entry.context(|| "cannot read a directory")?,
        };
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    /// Returns owners that change nothing but setuid bits.
    fn owners() -> Owners {
        Owners { range: 0..0, caller: (0, 0), since: None }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn deep_directories_are_closed_and_do_not_spare_the_files_beside_them() {
        let results = tempfile::tempdir().unwrap();
        let files = ["a", "z"].map(|name| results.path().join(name));
        for file in &files {
            std::fs::write(file, "").unwrap();
            std::fs::set_permissions(file, Permissions::from_mode(0o6755)).unwrap();
        }
        let mut deepest = results.path().join("m");
        (1..DEPTH).for_each(|_| deepest.push("d"));
        std::fs::create_dir_all(deepest.join("d")).unwrap();
        let error = owners().give_below(results.path()).unwrap_err();
        assert!(error.to_string().contains("nested deeper"), "{error}");
        assert_eq!(files.map(|file| mode(&file)), [0o755; 2]);
        assert_eq!(mode(&deepest), 0o700);
        assert_ne!(mode(deepest.parent().unwrap()), 0o700);
    }

    #[test]
    fn a_file_from_before_the_session_is_not_given_without_a_range() {
        let results = tempfile::tempdir().unwrap();
        let file = results.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o4755)).unwrap();
        let time = changed(&rustix::fs::stat(&file).unwrap());
        for (since, left) in [(time + 1, 0o4755), (time, 0o755)] {
            Owners { since: Some(since), ..owners() }.give_below(results.path()).unwrap();
            assert_eq!(mode(&file), left);
        }
    }

    #[test]
    fn a_file_that_replaces_a_result_keeps_its_mode() {
        let results = tempfile::tempdir().unwrap();
        let (file, other) = (results.path().join("file"), results.path().join("other"));
        for (path, bits) in [(&file, 0o4777), (&other, 0o600)] {
            std::fs::write(path, "").unwrap();
            std::fs::set_permissions(path, Permissions::from_mode(bits)).unwrap();
        }
        let directory = OwnedFd::from(std::fs::File::open(results.path()).unwrap());
        let held = OwnedFd::from(std::fs::File::open(&file).unwrap());
        let stat = rustix::fs::fstat(&held).unwrap();
        std::fs::rename(&other, &file).unwrap();
        let given = owners().give_one(&directory, &c"file".into(), &held, &stat);
        assert_eq!((given, mode(&file)), (Err(Errno::STALE), 0o600));
    }

    #[test]
    fn a_deleted_file_is_no_error() {
        let results = tempfile::tempdir().unwrap();
        let directory = results.path().join("directory");
        std::fs::create_dir(&directory).unwrap();
        let opened = OwnedFd::from(std::fs::File::open(&directory).unwrap());
        std::fs::remove_dir(&directory).unwrap();
        let device = rustix::fs::fstat(&opened).unwrap().st_dev;
        owners().give_entries(&opened, device, DEPTH).unwrap();
        owners().give_entry(&opened, &c"file".into(), device, DEPTH).unwrap();
    }
}
