//! Operations of several steps: what has begun is written to the disk first, so that the next verb can finish
//! what a killed one has left. Called by the verbs on images, which hold the locks of all images of an
//! operation until its file is deleted, and by `recovery`.

use super::draft::Draft;
use super::layer::LayerId;
use super::{Store, StorePart};
use crate::error::{Context, Error, Result};
use crate::host::probe;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// An operation of several steps. Its paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// A directory becomes the layer of a stack, which is created first.
    ConvertToStack {
        /// The directory.
        directory: PathBuf,
        /// The stack.
        stack: PathBuf,
        /// The layer.
        layer: LayerId,
    },
    /// The files of a stack become a directory, which is created first.
    ConvertToDirectory {
        /// The directory.
        directory: PathBuf,
        /// The stack.
        stack: PathBuf,
        /// The inode of the directory.
        inode: u64,
    },
    /// A stack is created, whose configuration is written first.
    CreateStack {
        /// The stack.
        stack: PathBuf,
    },
    /// A stack is replaced, whose configuration is written or deleted afterwards.
    ReplaceStack {
        /// The stack.
        stack: PathBuf,
        /// The inode of the new one.
        inode: u64,
        /// Its configuration. `None` if it has none.
        config: Option<String>,
    },
}

impl Operation {
    /// Returns the paths of all images that the operation changes.
    pub(crate) fn images(&self) -> Vec<&Path> {
        match self {
            Self::ConvertToStack { directory, stack, .. }
            | Self::ConvertToDirectory { directory, stack, .. } => {
                vec![directory, stack]
            }
            Self::CreateStack { stack } | Self::ReplaceStack { stack, .. } => vec![stack],
        }
    }
}

/// The file of an operation that has begun. It stays until the operation is finished or undone.
#[derive(Debug)]
pub(crate) struct RedoFile {
    path: PathBuf,
    /// The operation.
    pub(crate) operation: Operation,
}

impl RedoFile {
    /// Writes an operation to the disk, before its first step. The locks of its images are held.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn write(store: &Store, operation: Operation) -> Result<Self> {
        let directory = store.open(StorePart::Redo)?;
        let path = store.path(StorePart::Redo).join(format!("{}.json", probe::random_id()));
        Draft::publish_json(store, &path, &operation)?;
        let redo = Self { path, operation };
        rustix::fs::fsync(&directory).context(|| "cannot write the operation to the disk")?;
        Ok(redo)
    }

    /// Returns all operations that have begun and are not finished.
    ///
    /// # Errors
    /// A file that cannot be read: an operation of a newer version.
    pub(crate) fn all(store: &Store) -> Result<Vec<Self>> {
        let files = std::fs::read_dir(store.path(StorePart::Redo)).into_iter().flatten().flatten();
        files.filter_map(|entry| Self::read(entry.path()).transpose()).collect()
    }

    /// Reads a file. `None` if it is deleted in the meantime.
    fn read(path: PathBuf) -> Result<Option<Self>> {
        let reading = || format!("cannot read the interrupted operation '{}'", path.display());
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.context(reading)?,
        };
        let operation = serde_json::from_slice(&text)
            .map_err(|error| Error::new(error.to_string()).context(reading()))?;
        Ok(Some(Self { path, operation }))
    }

    /// Returns whether the operation is still unfinished: another process may have finished it before its
    /// images were locked.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Deletes the file: the operation is finished, or undone.
    ///
    /// # Errors
    /// Any error of unlink(2).
    pub(crate) fn finish(self) -> Result<()> {
        std::fs::remove_file(&self.path).context(|| format!("cannot delete '{}'", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;

    #[test]
    fn operations_stay_until_they_are_finished() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::of(&Paths::below(root.path()));
        assert!(RedoFile::all(&store).unwrap().is_empty());
        let (directory, stack) = (PathBuf::from("/images/web"), PathBuf::from("/images/web.mstack"));
        let operation = Operation::ConvertToStack { directory, stack, layer: LayerId::random() };
        drop(RedoFile::write(&store, operation.clone()).unwrap());
        let mut found = RedoFile::all(&store).unwrap();
        let redo = found.pop().unwrap();
        assert_eq!((&redo.operation, redo.exists(), found.len()), (&operation, true, 0));
        redo.finish().unwrap();
        assert!(RedoFile::all(&store).unwrap().is_empty());
        std::fs::write(store.path(StorePart::Redo).join("1.json"), r#"{"operation":"unknown"}"#).unwrap();
        let error = RedoFile::all(&store).unwrap_err().to_string();
        assert!(error.contains("1.json"), "{error}");
    }
}
