//! Removes files left by killed copies, at the next copy of the same machine. Each running copy has a record
//! with its temporary name and directory below `/var/lib/coracle/copies`: the guest could forge temporary
//! names in its own directories. Called by `copy`.

use crate::error::{Context, Error, Result};
use crate::host::probe;
use crate::host::procfs::start_time;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::sys::guest_files::GuestRoot;
use crate::tree::entry::TreeSide;
use crate::tree::walk;
use rustix::fd::AsFd;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The record of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopyRecord {
    machine: String,
    to: TreeSide,
    /// The destination of the request: the temporary name is in it or beside it.
    destination: PathBuf,
    name: String,
    /// Process ids are reused: the start time identifies the process.
    pid: u32,
    start: Option<u64>,
}

/// The record file of a running copy, deleted on drop.
#[derive(Debug)]
pub(super) struct RecordFile {
    file: PathBuf,
    name: OsString,
}

impl RecordFile {
    /// Chooses a temporary name and writes the record.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write(paths: &Paths, machine: &Name, to: TreeSide, destination: &Path) -> Result<Self> {
        let random = probe::random_id().to_string();
        let name = format!(".coracle-copy-{random}");
        let pid = std::process::id();
        let record = CopyRecord {
            machine: machine.to_string(),
            to,
            destination: destination.to_owned(),
            name: name.clone(),
            pid,
            start: start_time(pid),
        };
        let file = directory(paths).join(&random);
        let writing = || format!("cannot write '{}'", file.display());
        std::fs::create_dir_all(directory(paths)).context(writing)?;
        let text =
            serde_json::to_vec(&record).map_err(|error| Error::new(error.to_string()).context(writing()))?;
        std::fs::write(&file, text).context(writing)?;
        Ok(Self { file, name: name.into() })
    }

    /// Returns the temporary name.
    pub(super) fn name(&self) -> OsString {
        self.name.clone()
    }
}

impl Drop for RecordFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.file) {
            log::warn!("cannot remove '{}': {error}, ignoring", self.file.display());
        }
    }
}

fn directory(paths: &Paths) -> PathBuf {
    paths.kept().join("copies")
}

/// Deletes and returns the records of killed copies to one side of a machine.
pub(super) fn take(paths: &Paths, machine: &Name, to: TreeSide) -> Vec<CopyRecord> {
    let entries = std::fs::read_dir(directory(paths)).into_iter().flatten().flatten();
    let mut killed = Vec::new();
    for file in entries.map(|entry| entry.path()) {
        let record: Option<CopyRecord> =
            std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        // A file that is being written is not JSON yet.
        let Some(record) = record else { continue };
        let is_gone = start_time(record.pid) != record.start;
        if record.machine == machine.as_str() && record.to == to && is_gone {
            let _ = std::fs::remove_file(&file);
            killed.push(record);
        }
    }
    killed
}

impl CopyRecord {
    /// Removes the files of the copy, with the capabilities of this process.
    pub(super) fn remove(&self, root: &GuestRoot) {
        let beside = self.destination.parent().unwrap_or(Path::new("/"));
        for directory in [self.destination.as_path(), beside] {
            let Ok(directory) = root.open_directory(directory) else { continue };
            let name = std::ffi::OsStr::new(&self.name);
            if rustix::fs::statat(&directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_err() {
                continue;
            }
            match walk::remove(directory.as_fd(), name) {
                Ok(()) => log::info!("removed '{}' of a killed copy", self.name),
                Err(error) => log::warn!("cannot remove {error}, ignoring"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_killed_copies_are_removed_only() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::below(directory.path());
        let name = Name::new("web").unwrap();
        let destination = directory.path().join("there");
        std::fs::create_dir(&destination).unwrap();
        let record_file = RecordFile::write(&paths, &name, TreeSide::Host, &destination).unwrap();
        assert_eq!(take(&paths, &name, TreeSide::Host), [], "it is running");
        let text = std::fs::read(&record_file.file).unwrap();
        let record: CopyRecord = serde_json::from_slice(&text).unwrap();
        let killed = CopyRecord { start: record.start.map(|start| start + 1), ..record };
        std::fs::write(&record_file.file, serde_json::to_vec(&killed).unwrap()).unwrap();
        for other in [record_file.name(), ".coracle-copy-7".into(), "a".into()] {
            std::fs::create_dir_all(destination.join(other).join("below")).unwrap();
        }
        assert_eq!(take(&paths, &Name::new("other").unwrap(), TreeSide::Host), []);
        assert_eq!(take(&paths, &name, TreeSide::Guest), []);
        let taken = take(&paths, &name, TreeSide::Host);
        assert_eq!(taken, [killed]);
        taken[0].remove(&GuestRoot::of_caller().unwrap());
        assert!(!destination.join(record_file.name()).exists());
        assert_eq!(std::fs::read_dir(&destination).unwrap().count(), 2);
        assert_eq!(take(&paths, &name, TreeSide::Host), []);
        std::mem::forget(record_file);
    }
}
