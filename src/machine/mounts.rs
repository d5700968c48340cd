//! Further mounts of a machine.

use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Options of a tmpfs for the file system (tmpfs(5)); all but the last three have a value.
pub(crate) const TMPFS_OPTIONS: [&str; 11] =
    ["mode", "uid", "gid", "size", "nr_blocks", "nr_inodes", "huge", "mpol", "noswap", "inode32", "inode64"];

/// Options of a tmpfs for the mount, each followed or preceded by its opposite.
pub(crate) const TMPFS_ATTRIBUTES: [&str; 8] =
    ["ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec"];

/// Directories that must exist in every root.
pub(crate) const MOUNT_POINTS: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

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
            MountKind::Bind { source: BindPath::Host(source), .. } => Some(source),
            _ => None,
        }
    }
}

/// The kind of a further mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// A file or directory.
    Bind {
        /// Its place.
        source: BindPath,
        /// Whether it is read-only inside.
        read_only: bool,
        /// Whether mounts below the source are included.
        recursive: bool,
        /// The owners of its files inside.
        ids: MountIds,
        /// Whether setuid programs and file capabilities take effect; their owners are not those of the tree.
        setuid: bool,
        /// Whether a missing source inside is skipped.
        is_optional: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Options of tmpfs(5) separated by commas, for example `mode=755,size=10%`.
        options: String,
    },
    /// Directories combined by overlayfs.
    Overlay {
        /// The read-only layers, the lowest first.
        lower: Vec<LayerPath>,
        /// The place of changes.
        upper: OverlayChanges,
        /// Whether ids of layers of the host are mapped as those of the root.
        map_ids: bool,
        /// Whether setuid programs and file capabilities take effect.
        setuid: bool,
    },
    /// An empty node of mode 000 that hides an existing one.
    Inaccessible {
        /// Whether a missing one is skipped.
        is_optional: bool,
    },
}

impl Mount {
    /// Returns whether it has a directory of its own that vanishes at the end of the machine.
    pub(crate) fn has_temporary_directory(&self) -> bool {
        match &self.kind {
            MountKind::Bind { source, .. } => *source == BindPath::Temporary,
            MountKind::Overlay { upper, .. } => *upper == OverlayChanges::Discarded,
            _ => false,
        }
    }

    /// Returns whether it replaces the root of the machine.
    pub(crate) fn is_on_root(&self) -> bool {
        self.target == Path::new("/")
    }
}

/// Returns the name of the temporary directory of a mount, by its number in the machine.
pub(crate) fn temporary_directory(number: usize) -> String {
    format!("mount-{number}")
}

/// The source of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BindPath {
    /// An absolute path of the host.
    Host(PathBuf),
    /// An absolute path inside the root.
    Inside(PathBuf),
    /// A directory of the machine's root that vanishes at its end.
    Temporary,
}

/// The owners of the files of a bind mount inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountIds {
    /// Those of the host.
    Host,
    /// Those with the same number inside: owner 0 on the host is root.
    Same,
    /// The owner of the source is root; all other owners are nobody.
    Root,
    /// The owner of the source is the owner of the mount point; all other owners are nobody.
    Owner,
    /// This user of the host, by name or number, is that user of the machine; all other owners are nobody.
    User(String, String),
    /// The caller of a build session is its build user; all other owners are those of the session's range.
    BuildUser,
}

impl MountIds {
    /// Parses `ids`, `root`, `owner`, `none` or `USER:USER`.
    ///
    /// # Errors
    /// Any other text.
    pub(crate) fn new(text: &str) -> Result<Self> {
        match (text, text.split_once(':')) {
            ("none", _) => Ok(Self::Host),
            ("ids", _) => Ok(Self::Same),
            ("root", _) => Ok(Self::Root),
            ("owner", _) => Ok(Self::Owner),
            (_, Some((outside, inside))) if !outside.is_empty() && !inside.is_empty() => {
                Ok(Self::User(outside.to_owned(), inside.to_owned()))
            }
            _ => Err(Error::new(format!("'{text}' is not an id map")).with_hint(
                "write ids, root, owner, none, or a user of the host and a user of the machine, for example 1001:1000",
            )),
        }
    }

    /// Returns the text that [`MountIds::new`] parses.
    pub(crate) fn as_text(&self) -> String {
        match self {
            Self::Host => "none".into(),
            Self::Same => "ids".into(),
            Self::Root => "root".into(),
            Self::Owner => "owner".into(),
            Self::User(outside, inside) => format!("{outside}:{inside}"),
            Self::BuildUser => "build-user".into(),
        }
    }
}

/// The path of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LayerPath {
    /// A path of the host.
    Host(PathBuf),
    /// A path inside the machine.
    Inside(PathBuf),
}

/// The place of changes to an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OverlayChanges {
    /// None: it is read-only.
    None,
    /// Memory; they are discarded at the end.
    Temporary,
    /// A directory that vanishes at the end of the machine.
    Discarded,
    /// A directory.
    Directory(LayerPath),
}

/// Returns the name of the directory that the kernel works in, beside the directory of changes.
pub(crate) fn work_directory(data: &OsStr) -> OsString {
    let mut name = OsString::from(".#");
    name.push(data);
    name.push(".work");
    name
}
