//! Further mounts a machine gets.

use std::path::PathBuf;

/// Options of a tmpfs that become those of the file system (tmpfs(5)); they have a value, but for
/// the last three.
pub const TMPFS_OPTIONS: [&str; 11] =
    ["mode", "uid", "gid", "size", "nr_blocks", "nr_inodes", "huge", "mpol", "noswap", "inode32", "inode64"];

/// Options of a tmpfs that become attributes of the mount, each with the one that takes it back.
pub const TMPFS_ATTRIBUTES: [&str; 8] = ["ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec"];

/// One further mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it appears, an absolute path inside the machine.
    pub target: PathBuf,
    /// What is mounted there.
    pub kind: MountKind,
}

/// What a further mount is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// An absolute path of the host.
        source: PathBuf,
        /// Whether it is read-only inside.
        read_only: bool,
        /// Whether mounts below the source come along.
        recursive: bool,
        /// Whether ids are mapped as the root's are: owner 0 on the host is root inside.
        map_ids: bool,
        /// Whether its setuid programs and file capabilities count: they are of other owners than the tree's.
        setuid: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// tmpfs(5) options, comma separated, as `mode=755,size=10%`.
        options: String,
    },
    /// An empty node of mode 000 over what is there.
    Inaccessible,
}
