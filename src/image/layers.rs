//! The mounts that a root consists of: directories, overlays and file systems in memory, detached and with
//! mapped ids. Called by `attach`.

use super::disk::mounts::{Disk, DiskAccess};
use super::disk::partitions::Partition;
use super::stack::StackPart;
use crate::error::{Context, Error, Result};
use crate::sys::mount::{self, Depth, MountAttributes};
use crate::sys::overlay::{DATA, Marks, MountedOverlay, Overlay, Upper, WORK};
use crate::tree::walk;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The limits of a file system in memory: those of `/tmp`.
const LIMITS: [(&str, &str); 2] = [("size", "10%"), ("nr_inodes", "400k")];
/// The largest number of files in a writable layer of a chosen size.
const INODES: &str = "4m";

/// Whether a crash may damage a writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// It is synced as the guest requests it.
    Kept,
    /// It is discarded, and never synced.
    Discarded,
}

/// The settings of all mounts of a root.
#[derive(Debug)]
pub(super) struct Layers {
    /// The user namespace that maps ids.
    pub(super) id_map: Option<OwnedFd>,
    /// The host id of the guest's root.
    pub(super) owner: u32,
    /// The disk image, if the root is one.
    pub(super) disk: Option<Disk>,
    /// The size of writable layers in memory, bytes. `None` for [`LIMITS`].
    pub(super) memory_size: Option<u64>,
}

impl Layers {
    /// Returns the settings of mounts whose ids are those of the host.
    pub(super) fn of_host() -> Self {
        Self { id_map: None, owner: 0, disk: None, memory_size: None }
    }

    /// Copies the mount of a directory, without mounts below it.
    pub(super) fn copy(&self, directory: &Path, read_only: bool) -> Result<OwnedFd> {
        let doing = || format!("cannot mount '{}'", directory.display());
        let place = mount::open_directory(directory)?;
        let tree = mount::copy_tree(place.as_fd(), Depth::One).context(doing)?;
        let attributes = MountAttributes { read_only, ..MountAttributes::default() };
        let id_map = self.id_map.as_ref().map(AsFd::as_fd);
        let separated = mount::separate(tree.as_fd(), id_map, attributes);
        if id_map.is_none() {
            separated.context(doing)?;
            return Ok(tree);
        }
        separated
            .context(|| format!("cannot map the ids of '{}': its file system refuses", directory.display()))
            .map_err(|error| {
                error.with_hint(
                    "move it to ext4, xfs or btrfs, or run the machine without a user namespace \
                     (users.private = \"no\", --private-users=no)",
                )
            })?;
        Ok(tree)
    }

    /// Mounts a partition of the disk image.
    fn partition(&self, partition: &Partition, access: DiskAccess) -> Result<OwnedFd> {
        let disk = self.disk.as_ref().ok_or_else(|| Error::new("the disk image is not open"))?;
        disk.mount(partition, access, self.id_map.as_ref().map(AsFd::as_fd))
    }

    /// Creates a file system in memory, owned by the guest's root.
    pub(super) fn memory(&self, mode: &str) -> Result<OwnedFd> {
        self.memory_within(mode, LIMITS)
    }

    fn memory_within(&self, mode: &str, limits: [(&str, &str); 2]) -> Result<OwnedFd> {
        let owner = self.owner.to_string();
        let options = [("mode", mode), ("uid", owner.as_str()), ("gid", owner.as_str())];
        let options = [&options[..], &limits].concat();
        Ok(mount::new_file_system("tmpfs", &options, MountAttributes::default())?.mount)
    }

    /// Mounts all layers of a part, read-only, the uppermost first: with what was written to it.
    pub(super) fn lower(&self, part: &StackPart) -> Result<Vec<OwnedFd>> {
        let directories: Vec<PathBuf> = match part {
            StackPart::Overlay { layers, writable } => {
                let written = writable.as_ref().map(|writable| writable.join(DATA));
                let written = written.filter(|data| !is_missing(data));
                written.into_iter().chain(layers.iter().cloned()).collect()
            }
            StackPart::Directory(bind) => vec![bind.source.clone()],
            StackPart::Partition(partition) => return Ok(vec![self.partition(partition, DiskAccess::Read)?]),
            StackPart::Tmpfs => return Ok(vec![self.memory("755")?]),
        };
        directories.iter().map(|directory| self.copy(directory, true)).collect()
    }

    /// Mounts a part as it is: what the guest writes is kept.
    pub(super) fn writable(&self, part: &StackPart) -> Result<OwnedFd> {
        match part {
            StackPart::Overlay { layers, writable: Some(writable) } => {
                let lower = layers.iter().map(|layer| self.copy(layer, true)).collect::<Result<Vec<_>>>()?;
                let upper = self.upper(writable, &lower)?;
                Ok(self.overlay(&lower, Some(&upper), Durability::Kept)?.mount)
            }
            StackPart::Overlay { .. } => self.read_only(part),
            StackPart::Directory(bind) => self.copy(&bind.source, bind.read_only),
            StackPart::Partition(partition) => self.partition(partition, DiskAccess::Write),
            StackPart::Tmpfs => self.memory("755"),
        }
    }

    /// Mounts a part read-only. A single layer is mounted as it is: the kernel requires two.
    pub(super) fn read_only(&self, part: &StackPart) -> Result<OwnedFd> {
        let mut lower = self.lower(part)?;
        match lower.len() {
            0 | 1 => lower.pop().ok_or_else(|| Error::new("a stack without layers")),
            _ => Ok(self.overlay(&lower, None, Durability::Kept)?.mount),
        }
    }

    /// Mounts layers as an overlay.
    pub(super) fn overlay(
        &self,
        lower: &[OwnedFd],
        upper: Option<&OwnedFd>,
        durability: Durability,
    ) -> Result<MountedOverlay> {
        let overlay = Overlay {
            lower: lower.iter().map(AsFd::as_fd).collect(),
            upper: upper.map(|upper| Upper::of_stack(upper.as_fd())),
            is_volatile: durability == Durability::Discarded,
            marks: Marks::User,
        };
        overlay.mount().map_err(|error| match (&self.id_map, error.hint()) {
            (Some(_), None) => error.with_hint(
                "mapped layers require Linux 5.19: without it, run the machine without a user namespace of its \
                 own (users.private = \"no\", --private-users=no)",
            ),
            _ => error,
        })
    }

    /// Prepares and mounts the writable layer in a directory, above layers of which the first is the
    /// uppermost.
    pub(super) fn upper(&self, directory: &Path, lower: &[OwnedFd]) -> Result<OwnedFd> {
        let is_new = prepare(mount::open_directory(directory)?.as_fd()).map_err(|error| {
            error.context(format!("cannot prepare the writable layer '{}'", directory.display()))
        })?;
        let upper = self.copy(directory, false)?;
        if is_new {
            inherit(upper.as_fd(), lower)?;
        }
        Ok(upper)
    }

    /// Creates a writable layer in memory, or takes over one that was kept for a reboot.
    pub(super) fn memory_upper(&self, kept: Option<OwnedFd>, lower: &[OwnedFd]) -> Result<OwnedFd> {
        let size = self.memory_size.map(|size| size.to_string());
        let limits = size.as_deref().map_or(LIMITS, |size| [("size", size), ("nr_inodes", INODES)]);
        let upper = kept.map_or_else(|| self.memory_within("700", limits), Ok)?;
        if prepare(upper.as_fd())? {
            inherit(upper.as_fd(), lower)?;
            let data = open(upper.as_fd(), DATA).context(|| "cannot open the layer in memory")?;
            let flags = rustix::fs::XattrFlags::empty();
            match rustix::fs::fsetxattr(&data, "user.coracle", b"", flags) {
                Err(rustix::io::Errno::OPNOTSUPP) => {
                    return Err(Error::new(
                        "file systems in memory have no user attributes, which overlays require",
                    )
                    .with_hint("use Linux 6.6 or newer, or set root.ephemeral = \"disk\" (-x)"));
                }
                set => set.context(|| "cannot set an attribute in memory")?,
            }
            let _ = rustix::fs::fremovexattr(&data, "user.coracle");
        }
        Ok(upper)
    }
}

/// Creates the directories of a writable layer that do not exist, and empties the one that the kernel works
/// in: it contains marks of the overlay before. Returns whether the directory of files is new.
fn prepare(directory: BorrowedFd<'_>) -> Result<bool> {
    let create = |name: &str| match rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    };
    let opening = |name: &str| format!("cannot open its directory '{name}'");
    let creating = |name: &str| format!("cannot create its directory '{name}'");
    let is_new = create(DATA).context(|| creating(DATA))?;
    // A guest may have created a link here, while the writable layer was its root.
    open(directory, DATA).context(|| opening(DATA))?;
    if create(WORK).context(|| creating(WORK))? {
        return Ok(is_new);
    }
    let work = open(directory, WORK).context(|| opening(WORK))?;
    for entry in rustix::fs::Dir::read_from(&work).context(|| opening(WORK))? {
        let entry = entry.context(|| opening(WORK))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            walk::remove(work.as_fd(), name)?;
        }
    }
    Ok(is_new)
}

/// Gives a new directory of files the mode and the owner of the layer below, as the mounts show them.
fn inherit(upper: BorrowedFd<'_>, lower: &[OwnedFd]) -> Result<()> {
    let doing = || "cannot set the owner of the writable layer";
    let Some(below) = lower.first() else { return Ok(()) };
    let like = rustix::fs::fstat(below).context(doing)?;
    let data = open(upper, DATA).context(doing)?;
    rustix::fs::fchown(&data, Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)))
        .context(doing)?;
    rustix::fs::fchmod(&data, Mode::from_raw_mode(like.st_mode)).context(doing)
}

fn open(directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// Returns whether a writable layer has no files yet. One that cannot be looked at is not missing.
fn is_missing(data: &Path) -> bool {
    data.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}
