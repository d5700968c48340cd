//! The root of a machine: opened before it is claimed, attached after, with the mounts of its definition.
//! Called by `run`.

use crate::error::{Error, Result};
use crate::host::probe::Tree;
use crate::image::attach::AttachedRoot;
use crate::image::disk::mounts::{Disk, DiskAccess};
use crate::image::disk::partitions::Partition;
use crate::image::read_only;
use crate::image::stack::Stack;
use crate::machine::Machine;
use crate::machine::command::Payload;
use crate::machine::contract::Contract;
use crate::machine::mounts::{LayerPath, Mount, MountKind};
use crate::machine::root::RootSource;
use crate::paths::access::refuse_open;
use crate::state::id_ranges::RangeRetention;
use rustix::fd::AsFd;
use std::path::{Path, PathBuf};

/// Makes the root of a machine read-only if its image is, unless the machine discards its changes.
///
/// # Errors
/// An invalid disk image.
pub(super) fn protect_image(machine: &mut Machine) -> Result<()> {
    match &machine.root.source {
        RootSource::Directory(_) => protect_directory(machine),
        RootSource::Stack(_) => {}
        RootSource::Image(path) => protect_disk(&path.clone(), machine)?,
    }
    Ok(())
}

/// Makes the root read-only if its disk image or its partition is. Other partitions stay writable.
fn protect_disk(path: &Path, machine: &mut Machine) -> Result<()> {
    let disk = Disk::open(path, DiskAccess::Read)?.under(&machine.root)?;
    let root_is_writable = disk.root()?.is_writable();
    if machine.root.is_shared() {
        return Ok(());
    }
    if read_only::is_protected(path) {
        keep_read_only(&path.display().to_string(), machine);
    } else if !root_is_writable {
        if disk.partitions.iter().any(Partition::is_writable) {
            machine.make_root_partition_read_only();
        } else {
            machine.make_root_read_only();
        }
    }
    Ok(())
}

fn protect_directory(machine: &mut Machine) {
    let RootSource::Directory(path) = &machine.root.source else { return };
    if machine.root.is_shared() || !read_only::is_set(path) {
        return;
    }
    let path = path.display().to_string();
    keep_read_only(&path, machine);
}

/// Makes the root of a read-only image read-only, with a warning.
fn keep_read_only(path: &str, machine: &mut Machine) {
    log::warn!(
        "image '{path}' is read-only, and so is the root of machine '{}': set root.ephemeral = true to discard changes, \
         or start a clone",
        machine.name
    );
    machine.make_root_read_only();
}

/// Finds the directory inside the source that becomes the root. Links are followed inside the source.
///
/// # Errors
/// It does not exist.
pub(super) fn find_pivot(machine: &mut Machine) -> Result<()> {
    let Some(pivot) = machine.root.pivot.clone() else { return Ok(()) };
    let directory = Tree::open(machine.root.path())?.directory(&pivot.new)?;
    if let Some(old) = pivot.old.filter(|_| machine.contract == Contract::Nspawn) {
        // Coracle creates a missing one.
        Tree::open(&directory)?.directory(&old)?;
    }
    machine.pivot(directory);
    Ok(())
}

/// Opens the root of a machine, for its identity and its owners.
///
/// # Errors
/// A path that does not exist or is not a directory.
pub(super) fn open(machine: &Machine) -> Result<OpenedRoot> {
    check_sources(machine)?;
    match &machine.root.source {
        RootSource::Directory(_) => {
            Ok(OpenedRoot { tree: Some(Tree::open(machine.root.top())?), writable: Vec::new() })
        }
        RootSource::Stack(path) => {
            let stack = Stack::read(path)?;
            let outside = stack.outside().into_iter().filter(|(_, writable)| *writable);
            Ok(OpenedRoot {
                tree: Some(Tree::open(stack.surface())?),
                writable: outside.map(|(path, _)| path).collect(),
            })
        }
        // It is mounted with its lock held.
        RootSource::Image(_) => Ok(OpenedRoot { tree: None, writable: Vec::new() }),
    }
}

/// Returns the lowest layer of an overlay that replaces the root: the other ones change it.
fn lowest_layer(machine: &Machine, mount: &Mount) -> Option<PathBuf> {
    let MountKind::Overlay { lower, .. } = &mount.kind else { return None };
    match lower.first().filter(|_| mount.is_on_root())? {
        LayerPath::Host(path) => Some(path.clone()),
        LayerPath::Inside(path) => Some(machine.root.top().join(path.strip_prefix("/").unwrap_or(path))),
    }
}

/// A root before it is attached.
#[derive(Debug)]
pub(super) struct OpenedRoot {
    /// Its directory, of a stack the uppermost layer. `None` for a disk image.
    pub(super) tree: Option<Tree>,
    /// The directories outside of it that are written to.
    writable: Vec<PathBuf>,
}

/// Attaches a claimed root: with the mounts of the definition over it, as the payload will see it.
///
/// # Errors
/// A tree that is not a root file system, or that users of the host can reach.
pub(super) fn attach(
    machine: &Machine,
    opened: OpenedRoot,
    attached: Option<&AttachedRoot>,
    keep: RangeRetention,
) -> Result<Tree> {
    let root = match attached {
        None => opened.tree.ok_or_else(|| Error::new("the root is not attached"))?,
        Some(attached) => {
            let further = attached.further.iter();
            let further = further.map(|further| (further.target.as_path(), further.mount.as_fd()));
            Tree::of_mounts(attached.root.as_fd(), machine.root.path(), further)?
        }
    };
    let lowest: Vec<Option<PathBuf>> =
        machine.mounts.iter().map(|mount| lowest_layer(machine, mount)).collect();
    let mounts = machine.mounts.iter().zip(&lowest);
    let mounts =
        mounts.map(|(mount, lowest)| (mount.target.as_path(), lowest.as_deref().or_else(|| mount.source())));
    let tree = root.with_mounts(mounts)?;
    let booting = matches!(machine.command.payload, Payload::Boot { .. });
    tree.check_is_root(machine.contract, booting && machine.switches.check_os_release)?;
    let writable = if machine.root.is_shared() { &[][..] } else { &opened.writable };
    check_access(machine, writable, keep)?;
    Ok(tree)
}

/// Refuses bind mounts without a source on the host.
fn check_sources(machine: &Machine) -> Result<()> {
    let missing = machine.mounts.iter().find_map(|mount| {
        let source = mount.source()?;
        source.metadata().err().map(|error| (source, mount, error))
    });
    match missing {
        None => Ok(()),
        Some((source, mount, error)) => Err(Error::from(error)
            .context(format!("cannot bind '{}' on '{}'", source.display(), mount.target.display()))
            .with_hint("create it on the host, or remove the mount from the definition")),
    }
}

/// Refuses trees that users of the host can reach. `coracle run` only warns.
fn check_access(machine: &Machine, writable: &[PathBuf], keep: RangeRetention) -> Result<()> {
    let trees = machine.owned_trees();
    // Directories of a stack have the ids of the root.
    let of_stack = writable.iter().map(PathBuf::as_path).filter(|_| trees.contains(&machine.root.path()));
    for tree in trees.iter().copied().chain(of_stack) {
        match (refuse_open(tree), keep) {
            (Err(error), RangeRetention::Recorded) => return Err(error),
            (Err(error), RangeRetention::WhileRunning) => {
                // systemd-nspawn(1) runs such trees silently.
                let level = match machine.contract {
                    Contract::Coracle => log::Level::Warn,
                    Contract::Nspawn => log::Level::Info,
                };
                log::log!(
                    level,
                    "{error}: its setuid programs are the host's; {}",
                    error.hint().unwrap_or_default()
                );
            }
            (Ok(()), _) => {}
        }
    }
    Ok(())
}
