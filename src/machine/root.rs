//! The root file system of a machine.

use std::path::PathBuf;

/// The root file system of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The absolute path of the directory tree.
    pub directory: PathBuf,
    /// Whether the root is mounted read-only.
    pub read_only: bool,
}
