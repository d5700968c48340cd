//! Build sessions that outlast a reboot of the host: those whose changes are written to the disk (`--sync`). A session
//! has a file from its begin to its end. If its state record is missing, the host was rebooted: the record is written
//! again, as that of a dead session. Called by `run`, by the cleanup, and before sessions are looked for.

use super::record::{Phase, Record};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::{Paths, store};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// The content of a file.
#[derive(Debug, Serialize, Deserialize)]
struct KeptSession {
    /// The record of the session, without what a reboot ends.
    record: Record,
    /// The options of the session.
    request: Value,
}

/// Keeps a session whose record and options are written. An existing file is replaced.
///
/// # Errors
/// The file that cannot be written.
pub(crate) fn keep(paths: &Paths, record: &Record) -> Result<()> {
    let file = paths.kept_session(&record.name);
    let doing = || format!("cannot write '{}'", file.display());
    let request = std::fs::read(paths.session_request(&record.name)).context(doing)?;
    let request = serde_json::from_slice(&request).map_err(std::io::Error::other).context(doing)?;
    let kept = KeptSession { record: without_boot(record), request };
    let text = serde_json::to_vec(&kept).map_err(std::io::Error::other).context(doing)?;
    if let Some(directory) = file.parent() {
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(directory).context(doing)?;
    }
    forget(paths, &record.name)?;
    store::create(&file, &text, 0o600).context(doing)
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

/// Writes the records of sessions before the last reboot of the host.
pub(crate) fn restore(paths: &Paths) {
    let entries = std::fs::read_dir(paths.kept_sessions()).into_iter().flatten().flatten();
    for entry in entries {
        let file = entry.path();
        let name = file.file_name().and_then(|name| Name::new(name.to_str()?.strip_suffix(".json")?).ok());
        let Some(name) = name.filter(|name| !Record::is_written(paths, name)) else { continue };
        match restore_one(paths, &file, &name) {
            Ok(()) => log::debug!("session '{name}' was interrupted by a reboot of the host"),
            Err(error) => log::debug!("{error}, ignoring"),
        }
    }
}

fn restore_one(paths: &Paths, file: &Path, name: &Name) -> Result<()> {
    let doing = || format!("cannot restore session '{name}'");
    let text = std::fs::read(file).context(doing)?;
    let kept: KeptSession = serde_json::from_slice(&text).map_err(std::io::Error::other).context(doing)?;
    if kept.record.name != *name || !kept.record.throwaway.as_deref().is_some_and(Path::is_dir) {
        // Another program has removed its changes.
        forget(paths, name)?;
        return Err(Error::new("its changes do not exist").context(doing()));
    }
    std::fs::DirBuilder::new().mode(0o755).recursive(true).create(paths.machine(name)).context(doing)?;
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
        let changes = root.path().join("changes");
        let record = Record { supervisor: 1, throwaway: Some(changes.clone()), ..Record::new(name.clone()) };
        std::fs::create_dir_all(paths.machine(&name)).unwrap();
        std::fs::create_dir(&changes).unwrap();
        std::fs::write(paths.session_request(&name), "{}").unwrap();
        record.write(&paths).unwrap();
        keep(&paths, &record).unwrap();
        keep(&paths, &record).unwrap();
        // A reboot of the host.
        std::fs::remove_dir_all(paths.state()).unwrap();
        restore(&paths);
        restore(&paths);
        let restored = Record::read(&paths, &name).unwrap().unwrap();
        assert_eq!((restored.supervisor, restored.throwaway), (0, Some(changes.clone())));
        assert_eq!(std::fs::read_to_string(paths.session_request(&name)).unwrap(), "{}");
        // Without the changes there is no session.
        std::fs::remove_dir_all(paths.state()).unwrap();
        std::fs::remove_dir(&changes).unwrap();
        restore(&paths);
        assert!(!Record::is_written(&paths, &name) && !paths.kept_session(&name).exists());
        forget(&paths, &name).unwrap();
    }
}
