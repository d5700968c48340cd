//! Throw-away layers on the disk: directories for changes that are discarded at the end of a machine. Called by
//! `claim`, which names the directory in the state record before it exists, by `attach` and by cleanup.

use super::store::Store;
use super::store::draft::{self, Draft};
use crate::error::{Context, Result};
use crate::host::probe;
use crate::machine::Machine;
use crate::machine::mounts::{MountKind, temporary_directory};
use crate::paths::Paths;
use crate::state::kept_sessions;
use crate::state::record::Record;
use crate::sys::mount;
use crate::sys::process::interrupt;
use crate::tree;
use crate::tree::walk;
use rustix::fd::{AsFd, OwnedFd};
use std::ffi::OsStr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The directory of layers that do not outlast a reboot: tmpfiles.d(5) empties it.
const UNTIL_REBOOT: &str = "throwaway";
/// The directory of layers that outlast a reboot, those of build sessions with `--sync`.
const SYNCED: &str = "synced";

/// Returns a new name for a throw-away layer, which may have to outlast a reboot. Creates nothing.
pub(crate) fn choose(paths: &Paths, is_synced: bool) -> PathBuf {
    let directory = if is_synced { SYNCED } else { UNTIL_REBOOT };
    paths.storage().join(directory).join(probe::random_id().to_string())
}

/// Creates a throw-away layer that does not exist. Only root of the host can enter it: a guest may create
/// programs in it with the privileges of any of its users.
///
/// # Errors
/// Any error of mkdir(2).
pub(super) fn create(layer: &Path) -> Result<()> {
    let doing = || format!("cannot create the throw-away layer '{}'", layer.display());
    let (above, storage) = (layer.parent(), layer.parent().and_then(Path::parent));
    if let Some(kept) = storage.and_then(Path::parent) {
        std::fs::create_dir_all(kept).context(doing)?;
    }
    for directory in [storage, above, Some(layer)].into_iter().flatten() {
        match std::fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).context(doing);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Creates the temporary directories of a machine's mounts, owned by its root. Those of the boot before stay.
///
/// # Errors
/// Any error of mkdir(2) and chown(2).
pub(crate) fn create_directories(layer: &Path, machine: &Machine, owner: u32) -> Result<()> {
    for (number, mount) in machine.mounts.iter().enumerate() {
        if !mount.has_temporary_directory() {
            continue;
        }
        create(layer)?;
        if matches!(mount.kind, MountKind::Overlay { .. }) {
            // The builder creates it, with the mapped ids of the layers below.
            continue;
        }
        let directory = layer.join(temporary_directory(number));
        let doing = || format!("cannot create the temporary directory '{}'", directory.display());
        match std::fs::DirBuilder::new().mode(0o755).create(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => made.context(doing)?,
        }
        std::os::unix::fs::chown(&directory, Some(owner), Some(owner)).context(doing)?;
    }
    Ok(())
}

/// Creates the directory of one of the writable layers.
///
/// # Errors
/// Any error of mkdir(2).
pub(super) fn create_part(part: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o755).create(part) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).context(|| format!("cannot create the throw-away layer '{}'", part.display()))
        }
        _ => Ok(()),
    }
}

/// The copy in a throw-away layer.
const COPY: &str = "copy";

/// Returns whether the file system of a directory, which may be missing, can hold the writable layer of an
/// overlay: another overlay and NFS cannot (`filesystems/overlayfs.rst`).
pub(crate) fn takes_layers(directory: &Path) -> bool {
    let existing = directory.ancestors().find_map(|path| rustix::fs::statfs(path).ok());
    existing.is_none_or(|stat| ![libc::OVERLAYFS_SUPER_MAGIC, libc::NFS_SUPER_MAGIC].contains(&stat.f_type))
}

/// Copies a tree, as its mount shows it, to one of the layers, unless a boot before has. Returns the path of the
/// copy.
///
/// # Errors
/// A file that cannot be copied, or a signal.
pub(super) fn copy(tree: &OwnedFd, part: &Path) -> Result<PathBuf> {
    let copy = part.join(COPY);
    if copy.is_dir() {
        return Ok(copy);
    }
    log::info!("copying the root for its changes: '{}' cannot hold layers", part.display());
    let place = mount::open_directory(part)?;
    tree::copy::copy(tree.as_fd(), place.as_fd(), OsStr::new(COPY), &mut |_| interrupt::check())
        .map_err(|error| error.context(format!("cannot copy the root to '{}'", copy.display())))?;
    Ok(copy)
}

/// Removes a throw-away layer. A missing one is not an error.
///
/// # Errors
/// A file that cannot be removed.
pub(crate) fn remove(layer: &Path) -> Result<()> {
    let (Some(above), Some(name)) = (layer.parent(), layer.file_name()) else { return Ok(()) };
    if !above.is_dir() {
        return Ok(());
    }
    walk::remove_deep(mount::open_directory(above)?.as_fd(), name)
}

/// Moves a throw-away layer into the trash of the store, where a killed process leaves it to the next start. It
/// is removed with the returned draft. A missing layer is not an error.
///
/// # Errors
/// Any error of rename(2).
pub(crate) fn discard(paths: &Paths, layer: &Path) -> Result<Option<Draft>> {
    if layer.symlink_metadata().is_err() {
        return Ok(None);
    }
    Draft::of_trash(&Store::of(paths), layer).map(Some)
}

/// Returns the directories of changed files of the root of a machine with this throw-away layer, and the one
/// that the kernel works in.
pub(super) fn part_of_root(layer: &Path) -> PathBuf {
    layer.join("0")
}

/// Removes the layers beside one that no state record and no kept session names, for example of a host that has lost
/// power, and what killed processes have left in the trash.
pub(super) fn sweep(paths: &Paths, beside: &Path) {
    draft::sweep_trash(&Store::of(paths));
    // The directories first: each was named by a record before it was created.
    let directory = beside.parent().unwrap_or(beside);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let layers: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    if layers.is_empty() {
        return;
    }
    let mut named = Vec::new();
    if directory.ends_with(SYNCED) {
        // Before the records: a session without its record is named by its file only.
        match kept_sessions::changes(paths) {
            Ok(changes) => named = changes,
            Err(error) => return log::warn!("{error}, keeping the changes of all sessions"),
        }
    }
    match Record::all_readable(paths) {
        Ok(records) => named.extend(records.into_iter().filter_map(|record| record.throwaway)),
        Err(error) => return log::debug!("{error}, keeping all throw-away layers"),
    }
    // Parts that a removal has moved have the name of the layer with a suffix.
    let stem = |layer: &Path| layer.file_stem().map(ToOwned::to_owned);
    let used: Vec<_> = named.iter().filter_map(|layer| stem(layer)).collect();
    let is_used = |layer: &PathBuf| stem(layer).is_some_and(|stem| used.contains(&stem));
    for layer in layers.iter().filter(|layer| !is_used(layer)) {
        remove(layer).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::name::Name;

    #[test]
    fn only_layers_of_no_machine_are_swept() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let [used, left] = [choose(&paths, false), choose(&paths, false)];
        for layer in [&used, &left] {
            create(layer).unwrap();
            std::fs::create_dir_all(layer.join("0/data/a")).unwrap();
        }
        let name = Name::new("web").unwrap();
        std::fs::create_dir_all(paths.machine(&name)).unwrap();
        let record = Record { throwaway: Some(used.clone()), ..Record::new(name.clone()) };
        record.write(&paths).unwrap();
        std::fs::create_dir_all(paths.state().join("db")).unwrap();
        std::fs::write(paths.state().join("db/state.json"), "{").unwrap();
        sweep(&paths, &left);
        assert!(used.exists() && left.exists(), "a record cannot be read");
        std::fs::remove_file(paths.state().join("db/state.json")).unwrap();
        sweep(&paths, &left);
        assert!(used.exists() && !left.exists());
        remove(&used).unwrap();
        remove(&used).unwrap();
        assert!(!used.exists());
    }

    #[test]
    fn changes_of_kept_sessions_are_not_swept() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let [kept, left] = [choose(&paths, true), choose(&paths, true)];
        for layer in [&kept, &left] {
            create(layer).unwrap();
        }
        let name = Name::new("web").unwrap();
        let record = Record { throwaway: Some(kept.clone()), ..Record::new(name.clone()) };
        kept_sessions::keep(&paths, &record, serde_json::json!({})).unwrap();
        let other = paths.kept_sessions().join("other.json");
        std::fs::write(&other, "{").unwrap();
        sweep(&paths, &left);
        assert!(kept.exists() && left.exists(), "a file cannot be read");
        std::fs::remove_file(other).unwrap();
        // A machine has the name of the session.
        std::fs::create_dir_all(paths.machine(&name)).unwrap();
        Record::new(name).write(&paths).unwrap();
        sweep(&paths, &left);
        assert!(kept.exists() && !left.exists());
    }

    #[test]
    fn trees_of_any_depth_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let layer = choose(&Paths::below(root.path()), false);
        create(&layer).unwrap();
        let mut at = std::fs::File::open(&layer).unwrap();
        for depth in 0..1500 {
            for name in ["d", "other"] {
                rustix::fs::mkdirat(&at, name, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
            }
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CREATE;
            rustix::fs::openat(&at, "file", flags, rustix::fs::Mode::from_raw_mode(0)).unwrap();
            let next = if depth % 2 == 0 { "d" } else { "other" };
            at = rustix::fs::openat(&at, next, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
                .unwrap()
                .into();
        }
        remove(&layer).unwrap();
        assert_eq!(layer.parent().unwrap().read_dir().unwrap().count(), 0);
    }
}
