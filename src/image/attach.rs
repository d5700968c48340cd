//! Attaches the root of a machine: creates its mounts, detached and with mapped ids, before the machine has a
//! mount namespace. Called by `run` between the claim and the facts; the builder attaches them in the
//! machine. They vanish with their descriptors.

use super::disk::mounts::{Disk, DiskAccess};
use super::disk::partitions::Partition;
use super::disk::{Role, mount_points};
use super::layers::{Durability, Layers};
use super::stack::{Stack, StackBind, StackPart};
use super::{throwaway, users, volumes};
use crate::error::{Context, Error, Result};
use crate::host::idmap;
use crate::machine::Machine;
use crate::machine::root::{Ephemeral, RootSource, Volatile};
use crate::paths::Paths;
use crate::sys::mount::{self, Depth, MountAttributes};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, Uid};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// The mounts of a root, detached.
#[derive(Debug)]
pub(crate) struct AttachedRoot {
    /// The root.
    pub(crate) root: OwnedFd,
    /// Further mounts in it, parents before their children.
    pub(crate) further: Vec<FurtherMount>,
    /// The writable layers in memory, to be kept for a reboot.
    pub(crate) in_memory: Vec<OwnedFd>,
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

/// The input of an attachment.
#[derive(Debug)]
pub(crate) struct AttachRequest<'a> {
    /// The places of Coracle.
    pub(crate) paths: &'a Paths,
    /// The machine.
    pub(crate) machine: &'a Machine,
    /// Its first host id. `None` without a user namespace.
    pub(crate) id_base: Option<u32>,
    /// The first id of the owners of files, if their ids are mapped to that range.
    pub(crate) mapped_from: Option<u32>,
    /// The directory for changes that are discarded, from the state record.
    pub(crate) throwaway: Option<&'a Path>,
    /// The writable layers in memory of the boot before.
    pub(crate) in_memory: Vec<OwnedFd>,
}

/// Attaches the root of a machine, whose locks are held. `None` for a plain directory: the builder opens it
/// itself.
///
/// # Errors
/// An invalid stack, or a mount that the kernel refuses.
pub(crate) fn attach(request: AttachRequest<'_>) -> Result<Option<AttachedRoot>> {
    let root = &request.machine.root;
    if let RootSource::Stack(stack) = &root.source {
        users::record(request.paths, stack)?;
    }
    let memory = |kept: Vec<OwnedFd>| Discarded::Memory(kept.into());
    let changes = match (root.read_only, root.volatile, root.ephemeral) {
        (_, Volatile::Yes | Volatile::State, _) => Changes::Refused,
        (true, ..) if !root.has_writable_parts => Changes::Refused,
        // As in systemd-nspawn(1), a reboot discards them.
        (_, Volatile::Overlay, _) => Changes::Discarded(memory(Vec::new())),
        (.., Ephemeral::No) => Changes::Kept,
        (.., Ephemeral::Memory) if root.fresh_on_reboot => Changes::Discarded(memory(Vec::new())),
        (.., Ephemeral::Memory) => Changes::Discarded(memory(request.in_memory)),
        (.., Ephemeral::Disk) => Changes::Discarded(disk(&request)?),
    };
    if let (RootSource::Stack(path), Changes::Kept, true) =
        (&root.source, &changes, request.machine.security.nesting)
    {
        volumes::create(path)?;
    }
    let id_map = id_map(request.machine, request.id_base, request.mapped_from)?;
    attach_as(request.paths, request.machine, request.id_base, id_map, changes)
}

/// Attaches a root read-only, without its locks: to look at it. The source is not changed.
///
/// # Errors
/// As for [`attach`].
pub(crate) fn preview(
    paths: &Paths,
    machine: &Machine,
    id_base: Option<u32>,
    mapped_from: Option<u32>,
) -> Result<Option<AttachedRoot>> {
    attach_as(paths, machine, id_base, id_map(machine, id_base, mapped_from)?, Changes::Refused)
}

/// Returns the user namespace that maps the ids of the mounts, if their ids are mapped.
fn id_map(machine: &Machine, base: Option<u32>, mapped_from: Option<u32>) -> Result<Option<OwnedFd>> {
    let ranges = base.zip(mapped_from).filter(|_| machine.root.plain_directory().is_none());
    ranges.map(|(base, disk)| idmap::of_trees(disk, base, machine.id_count())).transpose()
}

/// Prepares the directory of changes that are discarded.
fn disk<'a>(request: &AttachRequest<'a>) -> Result<Discarded<'a>> {
    let directory =
        request.throwaway.ok_or_else(|| Error::new("the state record names no throw-away layer"))?;
    if request.machine.root.fresh_on_reboot {
        throwaway::remove(directory)?;
    }
    throwaway::sweep(request.paths, directory);
    throwaway::create(directory)?;
    Ok(Discarded::Disk { directory, number: 0 })
}

/// The treatment of a guest's changes.
enum Changes<'a> {
    /// They are kept in the source.
    Kept,
    /// They are not possible.
    Refused,
    /// They are discarded at the end.
    Discarded(Discarded<'a>),
}

/// The place of changes that are discarded.
enum Discarded<'a> {
    /// A directory, with a directory for each writable layer, by its number.
    Disk { directory: &'a Path, number: u32 },
    /// Memory, with the writable layers that a reboot has kept.
    Memory(VecDeque<OwnedFd>),
}

fn attach_as(
    paths: &Paths,
    machine: &Machine,
    id_base: Option<u32>,
    id_map: Option<OwnedFd>,
    changes: Changes<'_>,
) -> Result<Option<AttachedRoot>> {
    if machine.root.plain_directory().is_some() {
        return Ok(None);
    }
    let mut disk = None;
    let stack = match &machine.root.source {
        RootSource::Directory(path) => Stack::of_directory(path),
        RootSource::Stack(path) => Stack::read(path)?,
        RootSource::Image(path) => {
            let is_written = matches!(changes, Changes::Kept);
            let access = if is_written { DiskAccess::Write } else { DiskAccess::Read };
            let opened = Disk::open(path, access)?.under(&machine.root)?;
            let opened = disk.insert(opened.unlock(&machine.root, access, &paths.state())?);
            Stack::of_disk(path, opened.root()?, &opened.partitions)
        }
    };
    let memory_size = machine.root.memory_size;
    let layers = Layers { id_map, owner: id_base.unwrap_or(0), disk, memory_size };
    let durability = if machine.root.is_synced { Durability::Kept } else { Durability::Discarded };
    let mut attacher = Attacher { layers, changes, durability, in_memory: Vec::new() };
    let (root, mut further) = match machine.root.volatile {
        Volatile::Yes => attacher.volatile(&stack)?,
        _ => attacher.whole(&stack)?,
    };
    if machine.root.volatile == Volatile::State {
        further.push(FurtherMount { target: "/var".into(), mount: attacher.layers.memory("755")? });
    }
    if machine.root.volatile != Volatile::Yes {
        for bind in &stack.binds {
            let part = StackPart::Directory(bind.clone());
            further.push(FurtherMount { target: bind.target.clone(), mount: attacher.part(&part)? });
        }
        attacher.partitions(&stack, &root, machine.root.volatile, &mut further)?;
    }
    // Stable: a bind mount of the stack covers the file system of this module at the same path.
    further.sort_by(|a, b| a.target.cmp(&b.target));
    let in_memory = std::mem::take(&mut attacher.in_memory);
    Ok(Some(AttachedRoot { root, further, in_memory }))
}

struct Attacher<'a> {
    layers: Layers,
    changes: Changes<'a>,
    /// That of discarded changes.
    durability: Durability,
    /// The writable layers in memory so far.
    in_memory: Vec<OwnedFd>,
}

impl Attacher<'_> {
    /// Mounts the root and `/usr` of a stack.
    fn whole(&mut self, stack: &Stack) -> Result<(OwnedFd, Vec<FurtherMount>)> {
        let root = self.part(&stack.root)?;
        let usr = stack.usr.as_ref().map(|part| self.usr_of(part)).transpose()?;
        Ok((root, usr.into_iter().map(at_usr).collect()))
    }

    /// Mounts the further file systems of a disk image.
    fn partitions(
        &mut self,
        stack: &Stack,
        root: &OwnedFd,
        volatile: Volatile,
        further: &mut Vec<FurtherMount>,
    ) -> Result<()> {
        for partition in &stack.partitions {
            let Some(target) = mount_points::of(partition, root, &stack.partitions)? else { continue };
            // Covered by the empty file system.
            if volatile == Volatile::State && target.starts_with("/var") {
                continue;
            }
            let mount = self.part(&StackPart::Partition(partition.clone()))?;
            further.push(FurtherMount { target, mount });
        }
        Ok(())
    }

    /// Mounts a part. Read-only directories and partitions need no layer for changes.
    fn part(&mut self, part: &StackPart) -> Result<OwnedFd> {
        let is_read_only = match part {
            StackPart::Directory(bind) => bind.read_only && bind.target != Path::new("/"),
            // An overlay cannot stand on FAT, whose names have no case.
            StackPart::Partition(partition) => {
                partition.role != Role::Root && (!partition.is_writable() || partition.is_fat())
            }
            StackPart::Overlay { .. } | StackPart::Tmpfs => false,
        };
        match &mut self.changes {
            Changes::Kept => self.layers.writable(part),
            Changes::Refused => self.layers.read_only(part),
            Changes::Discarded(_) if is_read_only => self.layers.read_only(part),
            Changes::Discarded(place) => {
                let lower = self.layers.lower(part)?;
                let upper = place.next(&self.layers, &lower);
                let mounted = upper.and_then(|upper| {
                    let mounted = self.layers.overlay(&lower, Some(&upper), self.durability)?;
                    Ok((mounted.mount, mounted.upper.unwrap_or(upper)))
                });
                let mount = match mounted {
                    Ok((mount, upper)) => {
                        if matches!(place, Discarded::Memory(_)) {
                            self.in_memory.push(upper);
                        }
                        mount
                    }
                    Err(error) => place.copy(&self.layers, part, error)?,
                };
                if matches!(part, StackPart::Partition(_)) {
                    let attributes = MountAttributes { no_devices: true, ..MountAttributes::default() };
                    mount::restrict(mount.as_fd(), Depth::One, attributes)
                        .context(|| "cannot disable devices in the root")?;
                }
                Ok(mount)
            }
        }
    }

    /// Mounts the `usr` directory of a part: the root is another file system.
    fn usr_of(&mut self, part: &StackPart) -> Result<OwnedFd> {
        if let StackPart::Directory(bind) = part {
            let bind = StackBind { source: bind.source.join("usr"), ..bind.clone() };
            return self.part(&StackPart::Directory(bind));
        }
        let whole = self.part(part)?;
        match part {
            StackPart::Partition(Partition { role: Role::Usr, .. }) => Ok(whole),
            _ => usr_in(&whole),
        }
    }

    /// Mounts the `usr` directory of a stack read-only on an empty root (systemd-nspawn(1),
    /// `--volatile=yes`).
    fn volatile(&mut self, stack: &Stack) -> Result<(OwnedFd, Vec<FurtherMount>)> {
        let source = self.layers.read_only(&stack.root)?;
        let links = links_into_usr(source.as_fd())?;
        let usr = match &stack.usr {
            Some(part) => self.usr_of(part)?,
            None if matches!(stack.root, StackPart::Partition(_)) => usr_in(&source)?,
            None => self.usr_of(&stack.root)?,
        };
        let attributes = MountAttributes { read_only: true, ..MountAttributes::default() };
        mount::restrict(usr.as_fd(), Depth::One, attributes).context(|| "cannot make '/usr' read-only")?;
        let root = self.layers.memory("755")?;
        let owner = self.layers.owner;
        let doing = || "cannot create the directories of the empty root";
        for (name, mode) in [("usr", 0o755), ("etc", 0o755), ("var", 0o755), ("root", 0o700)] {
            rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(mode)).context(doing)?;
            give(&root, name, owner).context(doing)?;
        }
        for (name, target) in &links {
            rustix::fs::symlinkat(target, &root, *name).context(doing)?;
            give(&root, name, owner).context(doing)?;
        }
        Ok((root, vec![at_usr(usr)]))
    }
}

impl Discarded<'_> {
    /// Returns the next writable layer, above these layers.
    fn next(&mut self, layers: &Layers, lower: &[OwnedFd]) -> Result<OwnedFd> {
        match self {
            Self::Memory(kept) => layers.memory_upper(kept.pop_front(), lower),
            Self::Disk { directory, number } => {
                let place = directory.join(number.to_string());
                *number += 1;
                throwaway::create_part(&place)?;
                layers.upper(&place, lower).map_err(|error| match error.hint() {
                    None => error.with_hint(
                        "the directory must be on a file system with mapped ids, for example ext4: make it a \
                         link to another disk, or set root.ephemeral = \"memory\"",
                    ),
                    Some(_) => error,
                })
            }
        }
    }
}

impl Discarded<'_> {
    /// Copies a part where no layer is possible above it: as systemd-nspawn(1) does on every file system
    /// without snapshots. A reboot finds its copy again.
    ///
    /// # Errors
    /// `error` if the directory can hold layers, or a file that cannot be copied.
    fn copy(&self, layers: &Layers, part: &StackPart, error: Error) -> Result<OwnedFd> {
        let Self::Disk { directory, number } = self else { return Err(error) };
        if throwaway::takes_layers(directory) {
            return Err(error);
        }
        log::debug!("{error}");
        let place = directory.join(number.saturating_sub(1).to_string());
        let copy = throwaway::copy(&layers.read_only(part)?, &place)?;
        // Its ids are those of the host.
        Layers::of_host().copy(&copy, false)
    }
}

/// Returns the directory `usr` of a detached mount as a mount of its own.
fn usr_in(whole: &OwnedFd) -> Result<OwnedFd> {
    let doing = || "cannot mount the directory '/usr' of the root";
    match mount::copy_tree_at(whole.as_fd(), Path::new("usr"), Depth::One) {
        // KERNEL(6.15): before, only attached mounts can be copied.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => mount::in_new_namespace(|| {
            let root = mount::open_directory(Path::new("/"))?;
            mount::attach(whole.as_fd(), root.as_fd()).context(doing)?;
            mount::copy_tree_at(whole.as_fd(), Path::new("usr"), Depth::One).context(doing)
        }),
        copied => copied.context(doing),
    }
}

fn at_usr(mount: OwnedFd) -> FurtherMount {
    FurtherMount { target: "/usr".into(), mount }
}

fn give(root: &OwnedFd, name: &str, owner: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    rustix::fs::chownat(root, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Returns the links of a root into its `usr` directory.
///
/// # Errors
/// A root whose `/bin` is not such a link.
fn links_into_usr(root: BorrowedFd<'_>) -> Result<Vec<(&'static str, PathBuf)>> {
    use std::os::unix::ffi::OsStringExt;
    let target = |name: &'static str| {
        let target = rustix::fs::readlinkat(root, name, Vec::new()).ok()?.into_bytes();
        let target = PathBuf::from(std::ffi::OsString::from_vec(target));
        let inside = target.strip_prefix("/").unwrap_or(&target);
        inside.starts_with("usr").then_some((name, target))
    };
    let links: Vec<_> =
        ["bin", "sbin", "lib", "lib32", "lib64", "libx32"].into_iter().filter_map(target).collect();
    if links.iter().any(|(name, _)| *name == "bin") {
        return Ok(links);
    }
    Err(Error::new(
        "root.volatile = \"yes\" requires a root with all programs in '/usr': its '/bin' is not a link",
    )
    .with_hint("set root.volatile = \"overlay\""))
}
