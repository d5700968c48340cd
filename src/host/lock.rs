//! Lock files compatible with systemd: open-file-description locks on files that are deleted with the lock,
//! so that systemd-nspawn and Coracle respect each other's trees and id ranges.

use crate::error::{Context, Error, Result};
use crate::paths::Paths;
use crate::sys::directory::names;
use crate::sys::process::interrupt;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Whether a lock excludes all other ones, or exclusive ones only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockMode {
    /// Several processes can hold it at the same time.
    Shared,
    /// One process holds it.
    Exclusive,
}

/// A held lock; it ends with its descriptor, and survives an exec if the descriptor does.
#[derive(Debug)]
pub(crate) struct Lock {
    /// The descriptor that holds it.
    pub(crate) descriptor: OwnedFd,
    /// The file, to be deleted with the lock.
    pub(crate) path: PathBuf,
}

/// A short-term lock. Its file is deleted with it.
#[derive(Debug)]
pub(crate) struct Held(Lock);

impl Lock {
    /// Returns the lock as one whose file is deleted with it.
    pub(crate) fn with_deletion(self) -> Held {
        Held(self)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Deleted while it is locked: a process that opened the file before detects the deletion.
        let _ = std::fs::remove_file(&self.0.path);
    }
}

/// The timeout of waiting, longer than any such lock is held.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for one of Coracle's own locks, by its name. Only root can enter the directory: a user able to open
/// a lock file for reading could hold it with flock(2).
///
/// # Errors
/// The lock is held for too long; the message has the process id of the holder.
pub(crate) fn wait(paths: &Paths, name: &str) -> Result<Held> {
    wait_checking(paths, name, || Ok(()))
}

/// Waits like [`wait`] until a signal interrupts the start of a machine.
///
/// # Errors
/// Those of [`wait`], or a pending signal.
pub(crate) fn wait_unless_interrupted(paths: &Paths, name: &str) -> Result<Held> {
    wait_checking(paths, name, interrupt::check)
}

fn wait_checking(paths: &Paths, name: &str, check: fn() -> Result<()>) -> Result<Held> {
    wait_until_taken(&paths.locks().join(name), PATIENCE, check, || take_own(paths, name)).map(Held)
}

/// Takes one of Coracle's own locks. Their directory is created if it is missing.
fn take_own(paths: &Paths, name: &str) -> Result<Option<Lock>> {
    take_below(&paths.locks().join(name), LockMode::Exclusive, |directory| {
        std::fs::create_dir_all(paths.state())?;
        match std::fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    })
}

/// Takes one of Coracle's own locks by its name. `None` if another process holds it.
///
/// # Errors
/// The file cannot be created.
pub(crate) fn attempt(paths: &Paths, name: &str) -> Result<Option<Held>> {
    Ok(take_own(paths, name)?.map(Held))
}

/// Waits for the lock of all zones: systemd-nspawn's, because its machines may be in zones too.
///
/// # Errors
/// The lock is held for too long; the message has the process id of the holder.
pub(crate) fn wait_for_zones(paths: &Paths) -> Result<Held> {
    wait_at(&paths.systemd("nspawn-network-zone"), PATIENCE, || Ok(()))
}

/// Deletes the files of Coracle's own locks that no process holds: their holders were killed.
pub(crate) fn delete_stale(paths: &Paths) {
    let locks = paths.locks();
    for name in names(&locks).unwrap_or_default() {
        // Dropping the lock deletes its file.
        let _ = take(&locks.join(name)).map(|lock| lock.map(Held));
    }
}

/// Waits for a lock by its file, which stays.
///
/// # Errors
/// The lock is held for too long; the message has the process id of the holder.
pub(crate) fn wait_as(path: &Path, mode: LockMode) -> Result<Lock> {
    wait_at_as(path, mode, PATIENCE, || Ok(()))
}

fn wait_at(path: &Path, patience: Duration, check: fn() -> Result<()>) -> Result<Held> {
    wait_at_as(path, LockMode::Exclusive, patience, check).map(Held)
}

fn wait_at_as(path: &Path, mode: LockMode, patience: Duration, check: fn() -> Result<()>) -> Result<Lock> {
    wait_until_taken(path, patience, check, || take_as(path, mode))
}

fn wait_until_taken(
    path: &Path,
    patience: Duration,
    check: fn() -> Result<()>,
    take: impl Fn() -> Result<Option<Lock>>,
) -> Result<Lock> {
    let since = Instant::now();
    loop {
        if let Some(lock) = take()? {
            return Ok(lock);
        }
        if since.elapsed() > patience {
            let holder =
                holder(path).map_or_else(|| "another process".into(), |pid| format!("process {pid}"));
            return Err(Error::new(format!("{holder} holds the lock '{}' for long", path.display()))
                .with_hint("find out what that process waits for, or end it"));
        }
        check()?;
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns another process that has a file open: the holder of the lock on it. The kernel does not name it for
/// locks of open file descriptions (fcntl(2)).
pub(crate) fn holder(path: &Path) -> Option<u32> {
    let is_open = |pid: &u32| {
        let mut descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.any(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to == path))
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| *pid != std::process::id() && is_open(pid))
}

/// Takes an exclusive lock. `None` if another process holds it.
///
/// # Errors
/// The file cannot be created.
pub(crate) fn take(path: &Path) -> Result<Option<Lock>> {
    take_as(path, LockMode::Exclusive)
}

/// Takes a lock. `None` if another process holds one that excludes it.
///
/// # Errors
/// The file cannot be created.
pub(crate) fn take_as(path: &Path, mode: LockMode) -> Result<Option<Lock>> {
    take_below(path, mode, |directory| std::fs::create_dir_all(directory))
}

/// Takes a lock, in a directory that is created if it is missing.
fn take_below(
    path: &Path,
    mode: LockMode,
    create: impl Fn(&Path) -> std::io::Result<()>,
) -> Result<Option<Lock>> {
    let doing = || format!("cannot lock '{}'", path.display());
    let open = || {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
        rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
    };
    loop {
        let opened = match (open(), path.parent()) {
            (Err(rustix::io::Errno::NOENT), Some(parent)) => {
                create(parent).context(doing)?;
                open()
            }
            (opened, _) => opened,
        };
        let descriptor = opened.context(doing)?;
        if !convert(&descriptor, mode).context(doing)? {
            return Ok(None);
        }
        // The former holder deleted the file between open(2) and the lock: this lock is on a file without a
        // name. Files of locks have one name (systemd checks the same).
        if rustix::fs::fstat(&descriptor).context(doing)?.st_nlink > 0 {
            return Ok(Some(Lock { descriptor, path: path.to_owned() }));
        }
    }
}

/// Takes the lock of an open file, or changes the mode of a held one. Returns false if another process holds a
/// lock that excludes it; a held one is unchanged then.
///
/// # Errors
/// Any error of fcntl(2).
pub(crate) fn convert(descriptor: &OwnedFd, mode: LockMode) -> std::io::Result<bool> {
    match fcntl(descriptor, FcntlArg::F_OFD_SETLK(&whole_file(mode))) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Releases a lock, also if children have inherited its descriptor.
pub(crate) fn release(lock: Lock) {
    let unlocked = libc::flock { l_type: libc::F_UNLCK as libc::c_short, ..whole_file(LockMode::Shared) };
    if let Err(errno) = fcntl(&lock.descriptor, FcntlArg::F_OFD_SETLK(&unlocked)) {
        log::debug!("cannot release '{}': {errno}, ignoring", lock.path.display());
    }
}

/// Deletes a file unless a process holds a lock on it. It is locked until it is deleted: a process that opened
/// it before detects the deletion.
///
/// # Errors
/// Any error of unlink(2); a missing file is not an error.
pub(crate) fn delete_unless_taken(path: &Path) -> std::io::Result<()> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let held = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        // A file that cannot be opened for writing is no lock file.
        opened => opened.ok(),
    };
    if held.as_ref().is_some_and(|descriptor| matches!(convert(descriptor, LockMode::Exclusive), Ok(false))) {
        return Ok(());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns whether a file is locked through any open file description, one of this process included. Creates
/// no file.
pub(crate) fn is_taken(path: &Path) -> bool {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(descriptor) = rustix::fs::open(path, flags, Mode::empty()) else { return false };
    let mut found = whole_file(LockMode::Exclusive);
    fcntl(&descriptor, FcntlArg::F_OFD_GETLK(&mut found)).is_ok() && i32::from(found.l_type) != libc::F_UNLCK
}

/// Returns a lock for the whole file.
fn whole_file(mode: LockMode) -> libc::flock {
    let kind = match mode {
        LockMode::Shared => libc::F_RDLCK,
        LockMode::Exclusive => libc::F_WRLCK,
    };
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn a_wait_ends_and_names_the_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let mut holder = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::fs::File::create(&path).unwrap())
            .spawn()
            .unwrap();
        let held = super::wait_at(&path, Duration::ZERO, || Ok(())).unwrap();
        let error = super::wait_at(&path, Duration::ZERO, || Ok(())).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} holds", holder.id())), "{error}");
        drop(held);
        assert!(!path.exists());
        holder.kill().unwrap();
        holder.wait().unwrap();
    }

    #[test]
    fn lock_directory_is_accessible_to_root_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let paths = crate::paths::Paths::below(directory.path());
        let _held = super::wait(&paths, "firewall").unwrap();
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&paths.locks()), 0o700);
        assert_eq!(mode(&paths.locks().join("firewall")), 0o600);
    }

    #[test]
    fn only_files_of_killed_holders_are_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let paths = crate::paths::Paths::below(directory.path());
        let _held = super::wait(&paths, "firewall").unwrap();
        for name in ["claims", "binds-web"] {
            std::fs::write(paths.locks().join(name), "").unwrap();
        }
        super::delete_stale(&paths);
        let left = paths.locks().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["firewall"]);
    }

    #[test]
    fn shared_locks_exclude_exclusive_ones_only() {
        use super::{LockMode, convert, delete_unless_taken, take_as};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let one = take_as(&path, LockMode::Shared).unwrap().unwrap();
        let other = take_as(&path, LockMode::Shared).unwrap().unwrap();
        assert!(super::take(&path).unwrap().is_none() && super::is_taken(&path));
        assert!(!convert(&one.descriptor, LockMode::Exclusive).unwrap());
        delete_unless_taken(&path).unwrap();
        assert!(path.exists(), "another process holds it");
        drop(other);
        assert!(convert(&one.descriptor, LockMode::Exclusive).unwrap());
        assert!(take_as(&path, LockMode::Shared).unwrap().is_none());
        drop(one);
        delete_unless_taken(&path).unwrap();
        assert!(!path.exists());
        delete_unless_taken(&path).unwrap();
    }

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
