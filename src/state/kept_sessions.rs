//! Build sessions that outlast a reboot of the host: those whose changes are written to the disk (`--sync`). A session
//! has a file from its begin to its end. If its state record is missing, the host was rebooted: the record is written
//! again, as that of a dead session. Called by `run`, by the cleanup, and before sessions are looked for.

use super::record::{Phase, Record};
use crate::error::{Context, Error, Result};
use crate::host::lock;
use crate::machine::name::Name;
use crate::paths::{Paths, store};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The content of a file.
#[derive(Debug, Serialize, Deserialize)]
struct KeptSession {
    /// The record of the session, without what a reboot ends.
    record: Record,
    /// The options of the session.
    request: Value,
}

/// Keeps a session with the options that hold after a reboot. An existing file is replaced.
///
/// # Errors
/// The file that cannot be written.
pub(crate) fn keep(paths: &Paths, record: &Record, request: Value) -> Result<()> {
    let file = paths.kept_session(&record.name);
    let doing = || format!("cannot write '{}'", file.display());
    let kept = KeptSession { record: without_boot(record), request };
    let text = serde_json::to_vec(&kept).map_err(std::io::Error::other).context(doing)?;
    if let Some(directory) = file.parent() {
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(directory).context(doing)?;
    }
    store::replace_on_disk(&file, &text, 0o600).context(doing)
}

/// Returns what stays of a record after a reboot: nothing of the host but the changes.
fn without_boot(record: &Record) -> Record {
    let build = record.build.clone();
    Record {
        phase: Phase::Running,
        init: record.init,
        started: record.started,
        root: record.root.clone(),
        id_base: record.id_base,
        unconfined: record.unconfined.clone(),
        throwaway: record.throwaway.clone(),
        build: build.map(|mut build| {
            build.is_begun = true;
            build
        }),
        ..Record::new(record.name.clone())
    }
}

/// Deletes the file of a session, before its record. A missing file is not an error.
///
/// # Errors
/// Any error of unlink(2) and fsync(2).
pub(crate) fn forget(paths: &Paths, name: &Name) -> Result<()> {
    let file = paths.kept_session(name);
    match store::delete(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        deleted => deleted.context(|| format!("cannot remove '{}'", file.display())),
    }
}

/// Refuses the name of a session before the last reboot of the host that could not be restored.
///
/// # Errors
/// Such a session.
pub(crate) fn refuse(paths: &Paths, name: &Name) -> Result<()> {
    let file = paths.kept_session(name);
    if Record::is_written(paths, name) || !file.exists() {
        return Ok(());
    }
    Err(Error::new(format!("session '{name}' was interrupted by a reboot, and cannot be restored"))
        .with_hint(format!(
            "mount the disk with its changes, or give them up by deleting '{}'",
            file.display()
        )))
}

/// Writes the records of sessions before the last reboot of the host.
pub(crate) fn restore(paths: &Paths) {
    for name in names(paths) {
        if Record::is_written(paths, &name) {
            continue;
        }
        match restore_one(paths, &name) {
            Ok(()) => log::debug!("session '{name}' was interrupted by a reboot of the host"),
            Err(error) => log::debug!("{error}, ignoring"),
        }
    }
}

/// Returns the directories of changes of all sessions with a file, also of those that cannot be restored now.
///
/// # Errors
/// A file that cannot be read, for example of another version.
pub(crate) fn changes(paths: &Paths) -> Result<Vec<PathBuf>> {
    let mut changes = Vec::new();
    for name in names(paths) {
        changes.extend(read(paths, &name)?.and_then(|kept| kept.record.throwaway));
    }
    Ok(changes)
}

/// Returns the names of all sessions with a file.
fn names(paths: &Paths) -> Vec<Name> {
    let entries = std::fs::read_dir(paths.kept_sessions()).into_iter().flatten().flatten();
    entries.filter_map(|entry| Name::new(entry.file_name().to_str()?.strip_suffix(".json")?).ok()).collect()
}

/// Reads the file of a session. `None` if it is deleted.
fn read(paths: &Paths, name: &Name) -> Result<Option<KeptSession>> {
    let file = paths.kept_session(name);
    let doing = || format!("cannot read '{}'", file.display());
    match std::fs::read(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => serde_json::from_slice(&text.context(doing)?).map_err(std::io::Error::other).context(doing),
    }
}

fn restore_one(paths: &Paths, name: &Name) -> Result<()> {
    let doing = || format!("cannot restore session '{name}'");
    let Some(kept) = read(paths, name)? else { return Ok(()) };
    let changes = kept.record.throwaway.as_deref();
    if kept.record.name != *name || !changes.is_some_and(Path::is_dir) {
        // The disk with the storage may not be mounted yet.
        if changes.and_then(Path::parent).is_some_and(Path::is_dir) {
            // Another program has removed its changes.
            forget(paths, name)?;
        }
        return Err(Error::new("its changes do not exist").context(doing()));
    }
    std::fs::DirBuilder::new().mode(0o755).recursive(true).create(paths.machine(name)).context(doing)?;
    let Some(lock) = lock::take(&paths.machine(name).join("lock"))? else {
        return Err(Error::new("the machine of its name is starting").context(doing()));
    };
    let _held = lock.with_deletion();
    // Another process may have restored and recovered it, or ended it, before the lock was taken.
    if Record::is_written(paths, name) || !paths.kept_session(name).exists() {
        return Ok(());
    }
    let request = serde_json::to_vec(&kept.request).map_err(std::io::Error::other).context(doing)?;
    store::replace(&paths.session_request(name), &request, 0o600).context(doing)?;
    kept.record.write(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_without_a_record_is_dead_and_has_its_changes() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let name = Name::new("trixie-abcdef").unwrap();
        let storage = root.path().join("storage");
        let changes = storage.join("changes");
        let record = Record { supervisor: 1, throwaway: Some(changes.clone()), ..Record::new(name.clone()) };
        std::fs::create_dir_all(paths.machine(&name)).unwrap();
        std::fs::create_dir_all(&changes).unwrap();
        record.write(&paths).unwrap();
        let request = serde_json::json!({});
        keep(&paths, &record, request.clone()).unwrap();
        keep(&paths, &record, request).unwrap();
        // A reboot of the host.
        std::fs::remove_dir_all(paths.state()).unwrap();
        // Another process restores it, and starts it.
        let starting = lock::take(&paths.machine(&name).join("lock")).unwrap().unwrap().with_deletion();
        restore(&paths);
        assert!(!Record::is_written(&paths, &name));
        drop(starting);
        restore(&paths);
        restore(&paths);
        let restored = Record::read(&paths, &name).unwrap().unwrap();
        assert_eq!((restored.supervisor, restored.throwaway), (0, Some(changes.clone())));
        assert_eq!(std::fs::read_to_string(paths.session_request(&name)).unwrap(), "{}");
        // Without the changes there is no session, unless the disk with them is not mounted.
        std::fs::remove_dir_all(paths.state()).unwrap();
        std::fs::rename(&storage, root.path().join("disk")).unwrap();
        restore(&paths);
        assert!(!Record::is_written(&paths, &name) && paths.kept_session(&name).exists());
        assert!(refuse(&paths, &name).unwrap_err().to_string().contains("cannot be restored"));
        std::fs::create_dir(&storage).unwrap();
        restore(&paths);
        assert!(!Record::is_written(&paths, &name) && !paths.kept_session(&name).exists());
        forget(&paths, &name).unwrap();
    }
}
