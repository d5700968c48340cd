//! Attaches the root of a machine: creates its mounts, detached and with mapped ids, before the machine has a
//! mount namespace. Called by `run` between the claim and the facts; the builder attaches them in the
//! machine. They vanish with their descriptors.

use super::stack::{Stack, StackBind, StackPart};
use crate::error::{Context, Error, Result};
use crate::host::idmap;
use crate::machine::Machine;
use crate::machine::root::RootSource;
use crate::machine::users::Ownership;
use crate::sys::mount::{self, Depth, MountAttributes};
use crate::sys::overlay::{DATA, Overlay, WORK};
use crate::tree::walk;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The mounts of a root, detached.
#[derive(Debug)]
pub(crate) struct AttachedRoot {
    /// The root.
    pub(crate) root: OwnedFd,
    /// Further mounts in it, parents before their children.
    pub(crate) further: Vec<FurtherMount>,
}

impl AttachedRoot {
    /// Returns all mounts, the root first.
    pub(crate) fn mounts(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.root.as_fd()).chain(self.further.iter().map(|further| further.mount.as_fd()))
    }

    /// Returns the mount points of the further mounts.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Path> {
        self.further.iter().map(|further| further.target.as_path())
    }
}

/// A mount below a root.
#[derive(Debug)]
pub(crate) struct FurtherMount {
    /// The mount point, a path inside.
    pub(crate) target: PathBuf,
    /// The mount.
    pub(crate) mount: OwnedFd,
}

/// The ids of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttachIds {
    /// The first host id. `None` without a user namespace.
    pub(crate) base: Option<u32>,
    /// Whether the files already have owners in that range.
    pub(crate) has_shifted_owners: bool,
}

/// Attaches the root of a machine, whose locks are held. `None` for a plain directory: the builder opens it
/// itself.
///
/// # Errors
/// An invalid stack, or a mount that the kernel refuses.
pub(crate) fn attach(machine: &Machine, ids: AttachIds) -> Result<Option<AttachedRoot>> {
    attach_as(machine, ids, machine.root.read_only)
}

/// Attaches the root read-only, without its locks: to look at it. The source is not changed.
///
/// # Errors
/// As for [`attach`].
pub(crate) fn preview(machine: &Machine, ids: AttachIds) -> Result<Option<AttachedRoot>> {
    attach_as(machine, ids, true)
}

fn attach_as(machine: &Machine, ids: AttachIds, read_only: bool) -> Result<Option<AttachedRoot>> {
    let maps = machine.ownership == Ownership::Map && !ids.has_shifted_owners;
    let id_map = match ids.base.filter(|_| maps) {
        Some(base) if machine.root.plain_directory().is_none() => {
            Some(idmap::of_trees(base, machine.id_count())?)
        }
        _ => None,
    };
    let attacher = Attacher { read_only, id_map, owner: ids.base.unwrap_or(0) };
    match &machine.root.source {
        RootSource::Directory(_) => Ok(None),
        RootSource::Stack(path) => attacher.stack(&Stack::read(path)?).map(Some),
    }
}

/// The settings of all mounts of a root.
struct Attacher {
    read_only: bool,
    /// The user namespace that maps ids.
    id_map: Option<OwnedFd>,
    /// The host id of the guest's root.
    owner: u32,
}

impl Attacher {
    fn stack(&self, stack: &Stack) -> Result<AttachedRoot> {
        let root = self.part(&stack.root)?;
        let usr = stack.usr.as_ref().map(|part| self.usr(part)).transpose()?;
        let mut further: Vec<FurtherMount> =
            usr.into_iter().map(|mount| FurtherMount { target: "/usr".into(), mount }).collect();
        for bind in &stack.binds {
            further.push(FurtherMount { target: bind.target.clone(), mount: self.bind(bind)? });
        }
        further.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(AttachedRoot { root, further })
    }

    fn part(&self, part: &StackPart) -> Result<OwnedFd> {
        match part {
            StackPart::Overlay { layers, writable } => self.overlay(layers, writable.as_deref()),
            StackPart::Directory(bind) => self.bind(bind),
            StackPart::Tmpfs => {
                let owner = self.owner.to_string();
                let options = [("mode", "755"), ("uid", owner.as_str()), ("gid", owner.as_str())];
                let attributes = MountAttributes { read_only: self.read_only, ..MountAttributes::default() };
                mount::new_file_system("tmpfs", &options, attributes)
            }
        }
    }

    /// Mounts the `usr` directory of a part: the root is another file system.
    fn usr(&self, part: &StackPart) -> Result<OwnedFd> {
        if let StackPart::Directory(bind) = part {
            return self.bind(&StackBind { source: bind.source.join("usr"), ..bind.clone() });
        }
        let whole = self.part(part)?;
        mount::copy_tree_at(whole.as_fd(), Path::new("usr"), Depth::One)
            .context(|| "cannot mount '/usr' of the layers")
    }

    fn bind(&self, bind: &StackBind) -> Result<OwnedFd> {
        self.copy(&bind.source, bind.read_only || self.read_only)
    }

    /// Mounts layers as an overlay. Without a writable directory, a single layer is mounted as it is.
    fn overlay(&self, layers: &[PathBuf], writable: Option<&Path>) -> Result<OwnedFd> {
        let mut lower = Vec::new();
        let mut upper = None;
        if let Some(writable) = writable {
            let data = writable.join(DATA);
            if !self.read_only {
                prepare(writable, layers.first().map(PathBuf::as_path))?;
                upper = Some(self.copy(writable, false)?);
            } else if data.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                lower.push(self.copy(&data, true)?);
            }
        }
        for layer in layers {
            lower.push(self.copy(layer, true)?);
        }
        if upper.is_none() && lower.len() == 1 {
            return lower.pop().ok_or_else(|| Error::new("a stack without layers"));
        }
        let overlay = Overlay {
            lower: lower.iter().map(AsFd::as_fd).collect(),
            upper: upper.as_ref().map(AsFd::as_fd),
            is_volatile: false,
        };
        overlay.mount().map_err(|error| self.explained(error))
    }

    /// Adds the minimum version of the kernel to an error of an overlay with mapped ids.
    fn explained(&self, error: Error) -> Error {
        if self.id_map.is_none() || error.hint().is_some() {
            return error;
        }
        error.with_hint(
            "mapped layers require Linux 5.19: without it, run the machine without a user namespace of its own \
             (users.private = \"no\", --private-users=no)",
        )
    }

    /// Copies the mount of a directory, without mounts below it.
    fn copy(&self, directory: &Path, read_only: bool) -> Result<OwnedFd> {
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
}

/// Creates the directories of a writable layer that do not exist, and empties the one that the kernel works
/// in: it contains marks of the overlay before. A new directory of files has the mode and the owner of the
/// layer below.
fn prepare(writable: &Path, below: Option<&Path>) -> Result<()> {
    let doing = || format!("cannot prepare the writable layer '{}'", writable.display());
    let directory = mount::open_directory(writable)?;
    let create = |name: &str| match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    };
    let is_new = create(DATA).context(doing)?;
    // A guest may have created a link here, while the writable layer was its root.
    let data = open(directory.as_fd(), DATA).context(doing)?;
    if is_new {
        let like = match below {
            Some(below) => rustix::fs::stat(below).context(doing)?,
            None => rustix::fs::fstat(&directory).context(doing)?,
        };
        let (uid, gid) = (rustix::fs::Uid::from_raw(like.st_uid), rustix::fs::Gid::from_raw(like.st_gid));
        rustix::fs::fchown(&data, Some(uid), Some(gid)).context(doing)?;
        rustix::fs::fchmod(&data, Mode::from_raw_mode(like.st_mode)).context(doing)?;
    }
    if !create(WORK).context(doing)? {
        let work = open(directory.as_fd(), WORK).context(doing)?;
        for entry in rustix::fs::Dir::read_from(&work).context(doing)? {
            let entry = entry.context(doing)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                walk::remove(work.as_fd(), name).map_err(|error| error.context(doing()))?;
            }
        }
    }
    Ok(())
}

fn open(directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}
