//! Checks a directory that stacks of clones are to stand on: files that belong to an overlay inside it, like the
//! layers of nested containers, would be lost in them. Called by `clone`, `read_only` and `prune`. A walk
//! takes longer than a clone, and such a directory never changes: its result is kept in the store.

use super::store::draft::Draft;
use super::store::{Store, StorePart};
use crate::error::Result;
use crate::sys::btrfs;
use crate::tree::overlay_marks;
use rustix::fd::{AsFd, OwnedFd};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory that was walked without finding such a file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Checked {
    /// Its path.
    path: PathBuf,
    /// Its device, its inode, and the time of its last change: that of the flag that makes it read-only.
    state: (u64, u64, i64, i64),
}

/// Returns the first file of a directory that a stack on it would lose, relative to it.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn find_marked(store: &Store, path: &Path, directory: &OwnedFd) -> Result<Option<PathBuf>> {
    let checked = Checked::of(path, &File::from(directory.try_clone()?))?;
    if checked.is_kept(store) {
        return Ok(None);
    }
    let found = overlay_marks::find(directory.as_fd())?;
    // A change of the read-only property of a subvolume leaves its time.
    if found.is_none() && !btrfs::is_subvolume(directory.as_fd()) {
        // Without it, the next clone walks again.
        checked.keep(store).unwrap_or_else(|error| log::debug!("{error}, ignoring"));
    }
    Ok(found)
}

/// Forgets directories that were removed or made writable. Errors are logged.
pub(super) fn forget_outdated(store: &Store) {
    let entries = std::fs::read_dir(store.path(StorePart::Checked)).into_iter().flatten().flatten();
    for entry in entries {
        let is_outdated = || {
            let checked = Checked::read(&entry.path())?;
            Some(Checked::of(&checked.path, &File::open(&checked.path).ok()?).ok()? != checked)
        };
        if is_outdated().unwrap_or(true)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            log::warn!("cannot delete '{}': {error}, ignoring", entry.path().display());
        }
    }
}

impl Checked {
    fn of(path: &Path, directory: &File) -> Result<Self> {
        let found = directory.metadata()?;
        let state = (found.dev(), found.ino(), found.ctime(), found.ctime_nsec());
        Ok(Self { path: path.to_owned(), state })
    }

    fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    fn file(&self, store: &Store) -> PathBuf {
        let (device, inode, ..) = self.state;
        store.path(StorePart::Checked).join(format!("{device:x}-{inode:x}"))
    }

    fn is_kept(&self, store: &Store) -> bool {
        Self::read(&self.file(store)).is_some_and(|kept| kept.state == self.state)
    }

    fn keep(&self, store: &Store) -> Result<()> {
        store.open(StorePart::Checked)?;
        // That of another time.
        let _ = std::fs::remove_file(self.file(store));
        Draft::publish_json(store, &self.file(store), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;
    use crate::sys::mount;
    use std::fs;

    #[test]
    fn a_directory_is_walked_once_until_it_changes() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let store = Store::of(&Paths::below(root.path()));
        let base = root.path().join("base");
        fs::create_dir_all(base.join("below")).unwrap();
        let find = || find_marked(&store, &base, &mount::open_directory(&base).unwrap()).unwrap();
        let kept = || fs::read_dir(store.path(StorePart::Checked)).map_or(0, Iterator::count);
        assert_eq!((find(), kept()), (None, 1));
        // Not walked again: the directory itself is the same.
        let opaque = |value| {
            rustix::fs::setxattr(
                base.join("below"),
                "user.overlay.opaque",
                value,
                rustix::fs::XattrFlags::empty(),
            )
        };
        opaque(b"y").unwrap();
        assert_eq!(find(), None);
        forget_outdated(&store);
        assert_eq!(kept(), 1);
        fs::write(base.join("new"), "").unwrap();
        assert_eq!(find(), Some("below".into()));
        forget_outdated(&store);
        assert_eq!(kept(), 0);
        assert_eq!((find(), kept()), (Some("below".into()), 0));
    }
}
