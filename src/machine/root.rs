//! The root file system of a machine.

use std::path::{Path, PathBuf};

/// The source of a root file system, by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// A directory tree.
    Directory(PathBuf),
}

impl RootSource {
    /// Returns the path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) => path,
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
}
