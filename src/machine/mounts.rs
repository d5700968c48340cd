//! Further mounts of a machine.

use std::path::{Path, PathBuf};

/// Options of a tmpfs for the file system (tmpfs(5)); all but the last three have a value.
pub(crate) const TMPFS_OPTIONS: [&str; 11] =
    ["mode", "uid", "gid", "size", "nr_blocks", "nr_inodes", "huge", "mpol", "noswap", "inode32", "inode64"];

/// Options of a tmpfs for the mount, each followed or preceded by its opposite.
pub(crate) const TMPFS_ATTRIBUTES: [&str; 8] =
    ["ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec"];

/// A further mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount point, an absolute path inside the machine.
    pub target: PathBuf,
    /// The kind of mount.
    pub(crate) kind: MountKind,
}

impl Mount {
    /// Returns its source on the host. `None` if it has none.
    pub(crate) fn source(&self) -> Option<&Path> {
        match &self.kind {
            MountKind::Bind { source, .. } => Some(source),
            MountKind::Tmpfs { .. } | MountKind::Inaccessible => None,
        }
    }
}

/// The kind of a further mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// An absolute path of the host.
        source: PathBuf,
        /// Whether it is read-only inside.
        read_only: bool,
        /// Whether mounts below the source are included.
        recursive: bool,
        /// Whether ids are mapped as those of the root: owner 0 on the host is root inside.
        map_ids: bool,
        /// Whether setuid programs and file capabilities take effect; their owners are not those of the tree.
        setuid: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Options of tmpfs(5) separated by commas, for example `mode=755,size=10%`.
        options: String,
    },
    /// An empty node of mode 000 that hides an existing one.
    Inaccessible,
}
