//! Removes layers of the store that no stack stands on, and what killed verbs have left. Called by `control`,
//! and by verbs that remove images.

use super::store::draft::{self, Draft};
use super::store::{Store, StorePart, layer};
use super::{base_check, bases, locks, recovery, users};
use crate::error::{Context, Error, Result};
use crate::host::lock::{self, LockMode};
use crate::paths::Paths;
use crate::tree::usage;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The time after which a base without use is removed.
const BASE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whether something is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PruneMode {
    /// Unused layers are removed.
    Remove,
    /// They are only listed.
    DryRun,
}

/// A layer without users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnusedLayer {
    /// Its name.
    pub(crate) id: String,
    /// Its disk space, bytes.
    pub(crate) bytes: u64,
}

/// Removes all layers without users, and returns them.
///
/// # Errors
/// A directory that cannot be read: no layer is removed then. A user of the store that keeps its lock.
pub(crate) fn prune(paths: &Paths, mode: PruneMode) -> Result<Vec<UnusedLayer>> {
    let store = Store::of(paths);
    if mode == PruneMode::Remove {
        sweep(paths, &store);
    }
    if !store.path(StorePart::Layers).is_dir() {
        return Ok(Vec::new());
    }
    // Without users of layers, the stacks in work are complete, or left by killed verbs.
    let held = store.lock(if mode == PruneMode::Remove { LockMode::Exclusive } else { LockMode::Shared })?;
    let unused = unused(paths, &store, BASE_AGE)?;
    let mut found = Vec::new();
    let mut trash = Vec::new();
    for layer in &unused {
        let id = layer.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        found.push(UnusedLayer { id, bytes: usage::of(layer).unwrap_or_default() });
        if mode == PruneMode::Remove {
            trash.push(Draft::of_trash(&store, layer)?);
        }
    }
    if mode == PruneMode::Remove {
        bases::remove_dangling(&store);
    }
    // Others may use the store while the files are removed.
    drop(held);
    drop(trash);
    Ok(found)
}

/// Removes the layers without users after the removal of an image. Nothing is removed while others use the
/// store: a later removal does it.
pub(crate) fn after_removal(paths: &Paths) {
    let store = Store::of(paths);
    let remove = || -> Result<()> {
        if !store.path(StorePart::Layers).is_dir() {
            return Ok(());
        }
        let Some(held) = store.try_lock()? else { return Ok(()) };
        let trash: Vec<Draft> = unused(paths, &store, Duration::MAX)?
            .iter()
            .map(|layer| Draft::of_trash(&store, layer))
            .collect::<Result<_>>()?;
        drop(held);
        drop(trash);
        Ok(())
    };
    remove().unwrap_or_else(|error| log::warn!("cannot remove unused layers: {error}, ignoring"));
}

/// Removes what killed verbs have left.
fn sweep(paths: &Paths, store: &Store) {
    recovery::recover(paths);
    draft::sweep_store(store);
    base_check::forget_outdated(store);
    for directory in paths.image_directories() {
        draft::sweep_images(&directory);
        // Drafts of versions are in directories `NAME.v`.
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|suffix| suffix == "v") {
                draft::sweep_images(&entry.path());
            }
        }
    }
}

/// Refuses a link to a stack that is missing: its disk may not be mounted, and its layers are unknown.
fn refuse_missing_stacks(store: &Store) -> Result<()> {
    let roots = store.path(StorePart::Roots);
    let reading = || format!("cannot read '{}'", roots.display());
    if !roots.is_dir() {
        return Ok(());
    }
    for root in std::fs::read_dir(&roots).context(reading)? {
        let root = root.context(reading)?.path();
        if let Err(error) = root.metadata() {
            let stack = std::fs::read_link(&root).context(reading)?;
            return Err(Error::from(error)
                .context(format!("cannot look at the stack '{}', which has layers here", stack.display()))
                .with_hint(format!("mount its disk, or delete '{}' if it is gone", root.display())));
        }
    }
    Ok(())
}

/// Returns the layers that neither a stack leads to, nor a base that was used within `age`.
fn unused(paths: &Paths, store: &Store, age: Duration) -> Result<Vec<PathBuf>> {
    let reading = |path: &Path| format!("cannot read '{}'", path.display());
    refuse_missing_stacks(store)?;
    let mut used: BTreeSet<PathBuf> = BTreeSet::new();
    for link in users::links(paths)? {
        used.extend(layer::of_path(store, &link.target));
    }
    used.extend(bases::used(store, age)?);
    let layers = store.path(StorePart::Layers);
    let Ok(layers) = layers.canonicalize() else { return Ok(Vec::new()) };
    let mut unused = Vec::new();
    for layer in std::fs::read_dir(&layers).context(|| reading(&layers))? {
        let layer = layer.context(|| reading(&layers))?.path();
        // Machines lock the layers of their stacks, wherever these are.
        let is_locked = || {
            let file = locks::inode_file(paths, &layer.join(layer::TREE));
            file.is_ok_and(|file| lock::is_taken(&file))
        };
        if !used.contains(&layer) && !is_locked() {
            unused.push(layer);
        }
    }
    unused.sort();
    Ok(unused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_layers_without_users_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let store = Store::of(&paths);
        assert_eq!(prune(&paths, PruneMode::Remove).unwrap(), [], "there is no store");
        let layers = store.path(StorePart::Layers);
        for id in ["stack", "snapshot", "base", "gone", "dangling"] {
            fs::create_dir_all(layers.join(id).join("tree/below")).unwrap();
        }
        let link = |id: &str, from: PathBuf| {
            fs::create_dir_all(from.parent().unwrap()).unwrap();
            symlink(layers.join(id).join("tree"), from).unwrap();
        };
        link("stack", root.path().join("var/lib/machines/web.mstack/layer@0"));
        link("snapshot", store.path(StorePart::Snapshots).join("web/before/layer@0"));
        link("base", store.path(StorePart::Bases).join("debian"));
        // A link to a layer without files.
        link("dangling", root.path().join("var/lib/machines/db.mstack/layer@0"));
        fs::remove_dir_all(layers.join("dangling/tree")).unwrap();
        fs::create_dir_all(store.path(StorePart::Roots)).unwrap();
        // The disk of a stack may not be mounted: its layers are unknown.
        let elsewhere = store.path(StorePart::Roots).join("1");
        symlink("/missing/web.mstack", &elsewhere).unwrap();
        for mode in [PruneMode::DryRun, PruneMode::Remove] {
            let refused = prune(&paths, mode).unwrap_err();
            assert!(refused.to_string().contains("'/missing/web.mstack'"), "{refused}");
            assert!(refused.hint().unwrap().contains(elsewhere.to_str().unwrap()));
        }
        assert_eq!(layers.read_dir().unwrap().count(), 5);
        fs::remove_file(&elsewhere).unwrap();
        let ids = |mode| prune(&paths, mode).unwrap().into_iter().map(|layer| layer.id).collect::<Vec<_>>();
        assert_eq!(ids(PruneMode::DryRun), ["gone"]);
        assert_eq!(ids(PruneMode::Remove), ["gone"]);
        assert_eq!(ids(PruneMode::Remove), Vec::<String>::new());
        assert_eq!(layers.read_dir().unwrap().count(), 4);
        assert_eq!(store.path(StorePart::Trash).read_dir().unwrap().count(), 0);
    }
}
