//! Where the machine's root file system comes from.

use std::path::PathBuf;

/// The root file system of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// An absolute path to a directory tree.
    pub directory: PathBuf,
    /// Whether the root is mounted read-only.
    pub read_only: bool,
}
