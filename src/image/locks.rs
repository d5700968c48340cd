//! Lock files of images, the same as systemd's: of the name, beside the image, and of its inode. They are
//! taken in this order and never waited for. Called by `claim` for machines, and by the verbs on images.

use super::stack::Stack;
use crate::error::{Context, Error, Result};
use crate::host::lock::{self, Lock, LockMode};
use crate::host::procfs;
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::state::record::Record;
use rustix::fd::AsRawFd;
use rustix::fs::{FileType, Mode, OFlags};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A lock of an image, not taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageLock {
    /// The lock file.
    pub(crate) file: PathBuf,
    /// Whether other users of the image are excluded.
    pub(crate) mode: LockMode,
    /// Whether the image can be used if the lock file cannot be created: the lock of the inode excludes all
    /// users on this host.
    is_optional: bool,
    /// The locked image, for messages.
    image: PathBuf,
}

impl ImageLock {
    /// Takes the lock. `None` if the lock is optional, and its file system is read-only or has no locks.
    ///
    /// # Errors
    /// The image is in use; the message names the user.
    pub(crate) fn take(&self, holder: impl Fn(&Path) -> Option<String>) -> Result<Option<Lock>> {
        match lock::take_as(&self.file, self.mode) {
            Ok(Some(lock)) => Ok(Some(lock)),
            Ok(None) => Err(self.in_use(holder(&self.file))),
            Err(error) if self.is_optional => {
                log::debug!("{error}, ignoring");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the error for a lock of another user, with the name of that user if it is known.
    pub(crate) fn in_use(&self, holder: Option<String>) -> Error {
        let user = self.user(holder);
        let hint = match self.mode {
            LockMode::Exclusive => "stop it, or copy the tree: two systems on one root corrupt it",
            LockMode::Shared => "stop it, or start it read-only: it may change the tree",
        };
        Error::new(format!("root '{}' is in use by {user}", self.image.display())).with_hint(hint)
    }

    /// Returns the user of the image: the given one, or the process that holds the lock.
    fn user(&self, holder: Option<String>) -> String {
        let process = || {
            let pid = lock::holder(&self.file)?;
            Some(match procfs::command_name(pid) {
                Some(name) if name == "coracle" => {
                    let verb = procfs::verb(pid).map_or_else(String::new, |verb| format!(" {verb}"));
                    format!("process {pid} (coracle{verb})")
                }
                Some(name) => format!("process {pid} ({name})"),
                None => format!("process {pid}"),
            })
        };
        holder.or_else(process).unwrap_or_else(|| "another program".to_owned())
    }
}

/// Returns the running machine that holds a lock.
fn machine_of(paths: &Paths, file: &Path) -> Option<Name> {
    let is_user = |record: &Record| record.files.iter().any(|own| own == file) && record.is_alive();
    Record::all(paths).into_iter().find(is_user).map(|record| record.name)
}

/// Returns the locks of an image of this name for a verb, in the order in which they are taken.
///
/// # Errors
/// A missing image.
pub(crate) fn of_image(paths: &Paths, name: &Name, image: &Path, mode: LockMode) -> Result<Vec<ImageLock>> {
    let mut locks = vec![of_name(paths, name, image)];
    locks.extend(of_path(paths, image, mode)?);
    Ok(locks)
}

/// Deletes the lock files of killed processes, also those of images that have been replaced.
pub(crate) fn sweep(paths: &Paths) {
    for entry in std::fs::read_dir(directory(paths)).into_iter().flatten().flatten() {
        if let Err(error) = lock::delete_unless_taken(&entry.path()) {
            log::debug!("cannot delete '{}': {error}, ignoring", entry.path().display());
        }
    }
}

/// Locks that a verb holds. Their files are deleted with them.
#[derive(Debug, Default)]
pub(crate) struct HeldLocks(Vec<Lock>);

impl HeldLocks {
    /// Takes locks, in their order.
    ///
    /// # Errors
    /// An image in use; the message names the machine or the process.
    pub(crate) fn take(&mut self, paths: &Paths, locks: impl IntoIterator<Item = ImageLock>) -> Result<()> {
        for lock in locks {
            match lock::take_as(&lock.file, lock.mode) {
                Ok(Some(taken)) => self.0.push(taken),
                Ok(None) => {
                    let machine = machine_of(paths, &lock.file);
                    let hint = match &machine {
                        Some(name) => format!("stop it: coracle stop {name}"),
                        None => "wait until it has ended".to_owned(),
                    };
                    let user = lock.user(machine.map(|name| format!("machine '{name}'")));
                    let image = lock.image.display();
                    return Err(Error::new(format!("image '{image}' is in use by {user}")).with_hint(hint));
                }
                Err(error) if lock.is_optional => log::debug!("{error}, ignoring"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl HeldLocks {
    /// Excludes other users of the locked images too.
    ///
    /// # Errors
    /// Another user; the message names the process.
    pub(crate) fn exclude_others(&self) -> Result<()> {
        for Lock { descriptor, path } in &self.0 {
            let doing = || format!("cannot lock '{}'", path.display());
            if !lock::convert(descriptor, LockMode::Exclusive).context(doing)? {
                let user = lock::holder(path)
                    .map_or_else(|| "another program".to_owned(), |pid| format!("process {pid}"));
                return Err(Error::new(format!("{user} uses the image too"))
                    .with_hint("end its other sessions and machines, and try again"));
            }
        }
        Ok(())
    }
}

impl Drop for HeldLocks {
    fn drop(&mut self) {
        for Lock { descriptor, path } in std::mem::take(&mut self.0) {
            drop(descriptor);
            let _ = lock::delete_unless_taken(&path);
        }
    }
}

/// Returns the locks of a machine's root, in the order in which they are taken.
///
/// # Errors
/// A missing root.
pub(crate) fn of_root(paths: &Paths, machine: &Machine) -> Result<Vec<ImageLock>> {
    let mode = if machine.root.is_shared() { LockMode::Shared } else { LockMode::Exclusive };
    let image = machine.root.path();
    let mut locks = vec![of_name(paths, &machine.name, image)];
    locks.extend(of_path(paths, image, mode)?);
    // SYSTEMD(262): systemd-nspawn takes no lock for a stack, but those of directories that are its layers.
    if let RootSource::Stack(path) = &machine.root.source {
        for (directory, writable) in Stack::read(path)?.outside() {
            let mode = if writable { mode } else { LockMode::Shared };
            of_path(paths, &directory, mode)?.into_iter().for_each(|lock| add(&mut locks, lock));
        }
    }
    Ok(locks)
}

/// Adds a lock. Of two entries of a stack for one directory, the stricter lock is taken.
fn add(locks: &mut Vec<ImageLock>, lock: ImageLock) {
    match locks.iter_mut().find(|other| other.file == lock.file) {
        Some(other) if lock.mode == LockMode::Exclusive => other.mode = lock.mode,
        Some(_) => {}
        None => locks.push(lock),
    }
}

/// Returns the lock of a name, for an image of this name.
pub(crate) fn of_name(paths: &Paths, name: &Name, image: &Path) -> ImageLock {
    ImageLock {
        file: directory(paths).join(format!("name-{name}")),
        mode: LockMode::Exclusive,
        is_optional: false,
        image: image.to_owned(),
    }
}

/// Returns the locks of an image by its path.
///
/// # Errors
/// A missing image.
pub(crate) fn of_path(paths: &Paths, image: &Path, mode: LockMode) -> Result<Vec<ImageLock>> {
    let looking = || format!("cannot look at the root '{}'", image.display());
    let opened = rustix::fs::open(image, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(looking)?;
    let found = rustix::fs::fstat(&opened).context(looking)?;
    // Its path without symbolic links, by one call.
    let place = std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).context(looking)?;
    let lock = |file, is_optional| ImageLock { file, mode, is_optional, image: image.to_owned() };
    let is_node = place.starts_with("/dev");
    let beside = beside(&place).filter(|_| !is_node).map(|file| lock(file, true));
    let inode = lock_of(paths, &found);
    Ok(beside.into_iter().chain([lock(inode, false)]).collect())
}

/// Returns the lock file beside an image, by its path without links.
pub(super) fn beside(image: &Path) -> Option<PathBuf> {
    let mut file = OsString::from(".#");
    file.push(image.file_name()?);
    file.push(".lck");
    Some(image.with_file_name(file))
}

/// Returns the lock file of an image for this host, by its inode.
///
/// # Errors
/// A missing image.
pub(crate) fn inode_file(paths: &Paths, image: &Path) -> Result<PathBuf> {
    let found = rustix::fs::stat(image).context(|| format!("cannot look at '{}'", image.display()))?;
    Ok(lock_of(paths, &found))
}

/// Returns the lock file of a block device by its number, of another file by its inode.
fn lock_of(paths: &Paths, found: &rustix::fs::Stat) -> PathBuf {
    let name = match FileType::from_raw_mode(found.st_mode) {
        FileType::BlockDevice => {
            let (major, minor) = (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
            format!("block-{major}:{minor}")
        }
        _ => format!("inode-{}:{}", found.st_dev, found.st_ino),
    };
    directory(paths).join(name)
}

/// Returns the directory of the lock files that belong to this host.
fn directory(paths: &Paths) -> PathBuf {
    paths.systemd("nspawn/locks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_two_entries_is_locked_once() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let mut locks = Vec::new();
        for mode in [LockMode::Shared, LockMode::Exclusive, LockMode::Shared] {
            of_path(&paths, root.path(), mode).unwrap().into_iter().for_each(|lock| add(&mut locks, lock));
        }
        assert_eq!(locks.len(), 2);
        assert!(locks.iter().all(|lock| lock.mode == LockMode::Exclusive));
    }

    #[test]
    fn a_lock_beside_an_image_is_optional() {
        // No lock file can be created in procfs; the lock of the inode suffices.
        let root = tempfile::tempdir().unwrap();
        let locks =
            of_path(&Paths::below(root.path()), Path::new("/proc/self/fd"), LockMode::Exclusive).unwrap();
        let taken: Vec<Option<Lock>> = locks.iter().map(|lock| lock.take(|_| None).unwrap()).collect();
        assert!(taken[0].is_none() && taken[1].is_some());
        let error = locks[1].take(|_| Some("machine 'web'".into())).unwrap_err().to_string();
        assert!(error.contains("is in use by machine 'web'"), "{error}");
    }
}
