//! Bases: links to the layers that images of distributions begin with. A layer with a base stays until the base was
//! not used for long. Called by `create` and `prune`, which hold the lock of the store.

use super::freeze;
use super::store::draft::{Draft, DraftContent};
use super::store::layer::{self, LayerDraft, LayerId};
use super::store::{Store, StorePart};
use crate::error::{Context, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Returns the tree of a base and its age, and marks it as used. `None` if there is none.
pub(super) fn find(store: &Store, key: &str) -> Option<(PathBuf, Duration)> {
    let link = store.path(StorePart::Bases).join(key);
    let tree = link.canonicalize().ok().filter(|tree| tree.is_dir())?;
    let created = tree.with_file_name("info.json").metadata().ok()?.modified().ok()?;
    let age = SystemTime::now().duration_since(created).unwrap_or_default();
    // Bases without use are removed.
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    if let Err(errno) = rustix::fs::utimensat(CWD, &link, &times, AtFlags::SYMLINK_NOFOLLOW) {
        log::debug!("cannot mark '{}' as used: {errno}, ignoring", link.display());
    }
    Some((tree, age))
}

/// Publishes a base, in place of a former one. Returns its tree.
///
/// # Errors
/// Any error of syncfs(2) and rename(2).
pub(super) fn publish(store: &Store, key: &str, layer: LayerDraft) -> Result<PathBuf> {
    let id = layer.publish(store, DraftContent::Data)?;
    link(store, key, &id)?;
    Ok(id.tree(store))
}

fn link(store: &Store, key: &str, id: &LayerId) -> Result<()> {
    store.open(StorePart::Bases)?;
    let path = store.path(StorePart::Bases).join(key);
    let draft = Draft::in_store(store)?;
    freeze::link(&id.tree(store), &draft.path())?;
    if is_link(&path) {
        draft.exchange(&path, DraftContent::Entries)
    } else {
        draft.publish(&path, DraftContent::Entries)
    }
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_symlink())
}

/// Returns the layers of the bases that were used within `age`.
///
/// # Errors
/// A directory that cannot be read.
pub(super) fn used(store: &Store, age: Duration) -> Result<Vec<PathBuf>> {
    let mut used = Vec::new();
    for base in list(store)? {
        let changed = base.symlink_metadata().and_then(|found| found.modified());
        // A clock that was set back says nothing.
        let unused_for = changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok());
        if unused_for.is_none_or(|unused_for| unused_for < age) {
            let target = base.canonicalize();
            used.extend(target.ok().and_then(|target| layer::of_path(store, &target)));
        }
    }
    Ok(used)
}

/// Removes bases whose layer was removed. Errors are logged.
pub(super) fn remove_dangling(store: &Store) {
    for base in list(store).unwrap_or_default() {
        if is_link(&base)
            && !base.exists()
            && let Err(error) = std::fs::remove_file(&base)
        {
            log::warn!("cannot delete '{}': {error}, ignoring", base.display());
        }
    }
}

fn list(store: &Store) -> Result<Vec<PathBuf>> {
    let bases = store.path(StorePart::Bases);
    let reading = || format!("cannot read '{}'", bases.display());
    if !bases.is_dir() {
        return Ok(Vec::new());
    }
    std::fs::read_dir(&bases).context(reading)?.map(|base| Ok(base.context(reading)?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::prune::{self, PruneMode};
    use crate::image::store::layer::LayerInfo;
    use crate::machine::name::Name;
    use crate::paths::Paths;
    use std::fs;

    #[test]
    fn a_base_is_kept_until_it_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let store = Store::of(&paths);
        let name = Name::new("web").unwrap();
        let make = |text: &str| {
            let layer = LayerDraft::create(&store, &LayerInfo::of(&name)).unwrap();
            fs::create_dir(layer.path().join(LayerDraft::tree_name())).unwrap();
            fs::write(layer.path().join("tree/file"), text).unwrap();
            publish(&store, "own", layer).unwrap();
        };
        let text = || fs::read_to_string(find(&store, "own").unwrap().0.join("file")).unwrap();
        assert!(find(&store, "own").is_none());
        make("one");
        assert_eq!(prune::prune(&paths, PruneMode::Remove).unwrap(), []);
        assert_eq!(text(), "one");
        make("two");
        assert_eq!(text(), "two");
        assert_eq!(prune::prune(&paths, PruneMode::Remove).unwrap().len(), 1);
        assert_eq!(text(), "two");
        // A base without use for long.
        let link = store.path(StorePart::Bases).join("own");
        let old = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
        let times = Timestamps { last_access: old, last_modification: old };
        rustix::fs::utimensat(CWD, &link, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!(prune::prune(&paths, PruneMode::Remove).unwrap().len(), 1);
        assert!(find(&store, "own").is_none());
    }
}
