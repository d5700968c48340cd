//! The root file system of a machine.

use std::path::{Path, PathBuf};

/// The source of a root file system, by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// A directory tree.
    Directory(PathBuf),
    /// A stack of directory trees, as in systemd.mstack(7).
    Stack(PathBuf),
}

impl RootSource {
    /// Returns the path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Stack(path) => path,
        }
    }

    /// Returns the source at a path: stacks are recognised by the suffix of their name.
    pub(crate) fn of_path(path: PathBuf) -> Self {
        if path.extension().is_some_and(|suffix| suffix == "mstack") {
            Self::Stack(path)
        } else {
            Self::Directory(path)
        }
    }

    /// Returns the directory with the files that the guest has written.
    pub(crate) fn written_files(&self) -> PathBuf {
        match self {
            Self::Directory(path) => path.clone(),
            Self::Stack(path) => path.join("rw/data"),
        }
    }
}

/// The root file system of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Its source.
    pub source: RootSource,
    /// Whether the root is mounted read-only.
    pub read_only: bool,
}

impl Root {
    /// Returns the path of the source.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Returns whether the machine leaves the source unchanged: several machines can run on it at the same
    /// time.
    pub(crate) fn is_shared(&self) -> bool {
        self.read_only
    }

    /// Returns the directory of a root that consists of this directory only. `None` for a root of several
    /// mounts.
    pub(crate) fn plain_directory(&self) -> Option<&Path> {
        match &self.source {
            RootSource::Directory(path) => Some(path),
            RootSource::Stack(_) => None,
        }
    }
}
