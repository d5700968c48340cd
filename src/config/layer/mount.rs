//! A further mount as it is written in a definition or on the command line.

use std::path::PathBuf;

/// One further mount as it was said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// What it is: `bind`, `tmpfs` or `inaccessible`.
    pub kind: MountWord,
    /// A path of the host, for a bind.
    pub source: Option<PathBuf>,
    /// A path inside the machine; a bind's is its source's where not given.
    pub target: Option<PathBuf>,
    /// Whether a bind is read-only inside.
    pub read_only: Option<bool>,
    /// Whether mounts below a bind's source come along.
    pub recursive: Option<bool>,
    /// Whether a bind's ids are mapped as the root's are.
    pub map_ids: Option<bool>,
    /// Whether a bind's setuid programs and file capabilities count.
    pub setuid: Option<bool>,
    /// tmpfs(5) options.
    pub options: Option<String>,
}

/// The kinds of further mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MountWord {
    /// A file or directory of the host.
    #[default]
    Bind,
    /// An empty file system in memory.
    Tmpfs,
    /// An empty node over what is there.
    Inaccessible,
}
