//! The store: what images share and what verbs work on, in `/var/lib/coracle/storage`. It lies apart from the
//! directories of images, where systemd removes hidden files without asking for their users. Called by the
//! verbs on images. Mutable data of a machine is never here.
//!
//! ```text
//! layers/ID/{tree,info.json}   directories that stacks stand on; complete when they have this name
//! snapshots/NAME/TAG           saved states of images
//! bases/KEY                    links to layers that new machines begin with
//! roots/ID                     links to stacks outside of the directories of images
//! checked/DEVICE-INODE         directories that stacks of clones can stand on
//! redo/ID.json                 operations of several steps that have begun
//! tmp/OWNER  trash/OWNER       drafts, and what is being removed, named for their processes
//! lock                         shared by users of layers, exclusive for a sweep
//! ```

pub(crate) mod draft;
pub(crate) mod layer;
mod owner;
pub(crate) mod redo;

use crate::error::{Context, Error, Result};
use crate::host::lock::{self, Lock, LockMode};
use crate::paths::Paths;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A directory of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StorePart {
    /// Directories that stacks stand on.
    Layers,
    /// Saved states of images.
    Snapshots,
    /// Links to layers that new machines begin with.
    Bases,
    /// Links to stacks outside of the directories of images.
    Roots,
    /// Directories that stacks of clones can stand on.
    Checked,
    /// Operations that have begun.
    Redo,
    /// Drafts.
    Drafts,
    /// Files and directories that are being removed.
    Trash,
}

impl StorePart {
    fn name(self) -> &'static str {
        match self {
            Self::Layers => "layers",
            Self::Snapshots => "snapshots",
            Self::Bases => "bases",
            Self::Roots => "roots",
            Self::Checked => "checked",
            Self::Redo => "redo",
            Self::Drafts => "tmp",
            Self::Trash => "trash",
        }
    }
}

/// The store of images. It may not exist yet.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    /// Returns the store of a host. Creates nothing.
    pub(crate) fn of(paths: &Paths) -> Self {
        Self { root: paths.storage() }
    }

    /// Returns the path of a part. It may not exist.
    pub(crate) fn path(&self, part: StorePart) -> PathBuf {
        self.root.join(part.name())
    }

    /// Opens a part, which is created if it is missing. Only root of the host can enter the store: layers
    /// contain programs with the privileges of any of their users.
    ///
    /// # Errors
    /// Any error of mkdir(2) and open(2), or a store of another user.
    pub(crate) fn open(&self, part: StorePart) -> Result<OwnedFd> {
        let path = self.path(part);
        let opening = || format!("cannot open '{}'", path.display());
        match open_directory(&path) {
            Err(rustix::io::Errno::NOENT) => {}
            opened => return opened.context(opening),
        }
        if let Some(kept) = self.root.parent() {
            std::fs::create_dir_all(kept).context(|| format!("cannot create '{}'", kept.display()))?;
        }
        for directory in [&self.root, &path] {
            match std::fs::DirBuilder::new().mode(0o700).create(directory) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).context(|| format!("cannot create '{}'", directory.display()));
                }
                _ => {}
            }
        }
        close(&self.root)?;
        open_directory(&path).context(opening)
    }

    /// Takes the lock of the store: shared while links to layers are created, exclusive for a sweep of layers
    /// without links. Nobody holds it for long: it is waited for.
    ///
    /// # Errors
    /// Another process holds it for too long; the message names the process.
    pub(crate) fn lock(&self, mode: LockMode) -> Result<Lock> {
        self.open(StorePart::Drafts)?;
        lock::wait_as(&self.root.join("lock"), mode)
    }

    /// Takes the exclusive lock of the store. `None` if another process uses layers.
    ///
    /// # Errors
    /// The file cannot be created.
    pub(crate) fn try_lock(&self) -> Result<Option<Lock>> {
        self.open(StorePart::Drafts)?;
        lock::take(&self.root.join("lock"))
    }
}

/// Closes the store for other users: it may be a link to a directory that others have created.
fn close(root: &Path) -> Result<()> {
    let closing = || format!("cannot close '{}' for other users", root.display());
    let directory = open_directory(root).context(closing)?;
    let found = rustix::fs::fstat(&directory).context(closing)?;
    if found.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Error::new(format!("it belongs to the user with id {}", found.st_uid)).context(closing()));
    }
    if found.st_mode & 0o077 != 0 {
        rustix::fs::fchmod(&directory, Mode::RWXU).context(closing)?;
    }
    Ok(())
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_root_can_enter_the_store() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let store = Store::of(&paths);
        let mode = || paths.storage().metadata().unwrap().permissions().mode() & 0o777;
        store.open(StorePart::Layers).unwrap();
        assert_eq!(mode(), 0o700);
        // A link to another disk, which was created by hand.
        std::fs::remove_dir_all(paths.storage()).unwrap();
        std::fs::create_dir(root.path().join("disk")).unwrap();
        std::fs::set_permissions(root.path().join("disk"), PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(root.path().join("disk"), paths.storage()).unwrap();
        store.open(StorePart::Layers).unwrap();
        assert_eq!(mode(), 0o700);
        assert!(root.path().join("disk/layers").is_dir());
    }

    #[test]
    fn users_of_layers_share_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::of(&Paths::below(root.path()));
        let one = store.lock(LockMode::Shared).unwrap();
        let other = store.lock(LockMode::Shared).unwrap();
        assert!(lock::take(&other.path).unwrap().is_none());
        drop((one, other));
        store.lock(LockMode::Exclusive).unwrap();
    }
}
