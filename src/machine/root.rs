//! The root file system of a machine.

use super::image_policy::ImagePolicy;
use super::verity::Verity;
use std::path::{Path, PathBuf};

/// The source of a root file system, by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// A directory tree.
    Directory(PathBuf),
    /// A stack of directory trees, as in systemd.mstack(7).
    Stack(PathBuf),
    /// A disk image: a file or a block device.
    Image(PathBuf),
}

impl RootSource {
    /// Returns the path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Stack(path) | Self::Image(path) => path,
        }
    }

    /// Returns the source at a path: stacks and images are recognised by the suffix of their name.
    pub(crate) fn of_path(path: PathBuf) -> Self {
        match path.extension() {
            Some(suffix) if suffix == "mstack" => Self::Stack(path),
            Some(suffix) if suffix == "raw" => Self::Image(path),
            _ => Self::Directory(path),
        }
    }

    /// Returns the directory with the files that the guest has written. `None` if they are in a disk image.
    pub(crate) fn written_files(&self) -> Option<PathBuf> {
        match self {
            Self::Directory(path) => Some(path.clone()),
            Self::Stack(path) => Some(path.join("rw/data")),
            Self::Image(_) => None,
        }
    }
}

/// The part of a root that is empty at each boot, as in systemd-nspawn(1), `--volatile=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Volatile {
    /// None.
    #[default]
    No,
    /// All but `/usr`, which is read-only.
    Yes,
    /// `/var`; the other parts are read-only.
    State,
    /// None, but all changes are in memory.
    Overlay,
}

/// The place of changes that are discarded at the end of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ephemeral {
    /// None: changes are kept.
    #[default]
    No,
    /// The disk.
    Disk,
    /// Memory.
    Memory,
}

/// A directory inside the source that becomes the root, as in systemd-nspawn(1), `--pivot-root=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pivot {
    /// The new root, an absolute path inside the source.
    pub(crate) new: PathBuf,
    /// The place of the source in the new root. `None` if it is not seen.
    pub(crate) old: Option<PathBuf>,
}

/// The root file system of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Its source.
    pub source: RootSource,
    /// Whether the root is mounted read-only.
    pub read_only: bool,
    /// The part that is empty at each boot.
    pub volatile: Volatile,
    /// Whether changes are discarded at the end of the machine.
    pub ephemeral: Ephemeral,
    /// Whether they are also discarded when the guest reboots.
    pub fresh_on_reboot: bool,
    /// Whether discarded changes on the disk are written to it when the guest requests that.
    pub(crate) is_synced: bool,
    /// The largest size of discarded changes in memory, bytes. `None` for a part of the memory of the host.
    pub(crate) memory_size: Option<u64>,
    /// The directory inside the source that becomes the root.
    pub pivot: Option<Pivot>,
    /// Its path on the host, once it is found. `None` for the source itself.
    pub(crate) pivoted: Option<PathBuf>,
    /// Whether the root is read-only, and other file systems of its image are written to.
    pub(crate) has_writable_parts: bool,
    /// Whether the source is a version whose boot is an attempt (systemd.v(7)).
    pub(crate) is_trial: bool,
    /// The newer version that did not boot, and why.
    pub(crate) fallback: Option<String>,
    /// The policy of its disk image. `None` permits all.
    pub(crate) image_policy: Option<ImagePolicy>,
    /// The hashes that verify its disk image.
    pub(crate) verity: Verity,
}

impl Root {
    /// Returns a root of which all changes are kept.
    pub fn of(source: RootSource) -> Self {
        let (volatile, ephemeral) = (Volatile::No, Ephemeral::No);
        Self {
            source,
            read_only: false,
            volatile,
            ephemeral,
            fresh_on_reboot: false,
            is_synced: false,
            memory_size: None,
            pivot: None,
            pivoted: None,
            has_writable_parts: false,
            is_trial: false,
            fallback: None,
            image_policy: None,
            verity: Verity::default(),
        }
    }
}

impl Root {
    /// Returns the path of the source.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Returns the path of the directory that the machine sees as its root, or of its source.
    pub(crate) fn top(&self) -> &Path {
        self.pivoted.as_deref().unwrap_or(self.path())
    }

    /// Returns whether the machine leaves the source unchanged: several machines can run on it at the same
    /// time.
    pub(crate) fn is_shared(&self) -> bool {
        let is_unchanged = self.read_only && !self.has_writable_parts;
        is_unchanged || self.volatile != Volatile::No || self.ephemeral != Ephemeral::No
    }

    /// Returns whether files in `/etc` can be written.
    pub(crate) fn has_writable_etc(&self) -> bool {
        match self.volatile {
            Volatile::No => !self.read_only,
            Volatile::Yes | Volatile::Overlay => true,
            Volatile::State => false,
        }
    }

    /// Returns whether the guest writes to other directories than the source, at the most.
    pub(crate) fn keeps_source(&self) -> bool {
        self.ephemeral != Ephemeral::No || matches!(self.volatile, Volatile::Yes | Volatile::State)
    }

    /// Returns whether discarded changes are on the disk.
    pub(crate) fn is_throwaway(&self) -> bool {
        self.ephemeral == Ephemeral::Disk && !self.read_only
    }

    /// Returns the directory of a root that consists of this directory only. `None` for a root of several
    /// mounts.
    pub(crate) fn plain_directory(&self) -> Option<&Path> {
        let is_plain = self.volatile == Volatile::No && (self.read_only || self.ephemeral == Ephemeral::No);
        match &self.source {
            RootSource::Directory(path) if is_plain => Some(self.pivoted.as_ref().unwrap_or(path)),
            _ => None,
        }
    }
}
