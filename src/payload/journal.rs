//! The journal directory of the host, mounted in the tree before PID 1 starts. Called by the builder.

use super::host_mounts::HostMounts;
use super::nodes;
use super::tree_paths::TreePaths;
use crate::error::{Context, Error, Result};
use crate::plan::step::JournalDirectory;
use crate::sys::mount::{self, Depth, MountAttributes};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::path::Path;

/// Mounts the directory. A failure is an error only if the machine does not start without the mount.
///
/// # Errors
/// Any error of the mount calls; a directory of the tree that is a mount point.
pub(super) fn bind(
    paths: &mut TreePaths,
    host: &HostMounts,
    directory: &JournalDirectory,
    id_map: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let bound = attach(paths, host, directory, id_map);
    match bound {
        Err(_) if !directory.is_required => Ok(()),
        bound => bound.context(|| "cannot link the journal"),
    }
}

fn attach(
    paths: &mut TreePaths,
    host: &HostMounts,
    directory: &JournalDirectory,
    id_map: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let JournalDirectory { source, target, .. } = directory;
    let tree = host.visit(|| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = rustix::fs::open(source, flags, Mode::empty());
        let from = from.context(|| format!("cannot open '{}'", source.display()))?;
        refuse_mount(&from, source)?;
        mount::copy_tree(from.as_fd(), Depth::One).context(|| "cannot copy the mount")
    })?;
    mount::separate(tree.as_fd(), id_map, MountAttributes::INERT).context(|| "cannot map its ids")?;
    let parents: Vec<&Path> = target.ancestors().skip(1).filter(|path| path.parent().is_some()).collect();
    for parent in parents.into_iter().rev().chain([target.as_path()]) {
        if paths.open_as(parent, OFlags::PATH | OFlags::DIRECTORY).is_err() {
            nodes::directory(paths, parent, 0o755)
                .map_err(|error| error.context(format!("cannot create '{}'", parent.display())))?;
        }
    }
    let place = paths.open(target).context(|| format!("cannot open '{}'", target.display()))?;
    refuse_mount(&place, target)?;
    mount::attach(tree.as_fd(), place.as_fd())
        .map_err(|error| Error::from(error).context(format!("cannot mount on '{}'", target.display())))?;
    paths.cover(target, tree);
    Ok(())
}

/// Refuses a mount point: another program shares the directory.
fn refuse_mount(directory: &OwnedFd, path: &Path) -> Result<()> {
    if mount::is_root_of_mount(directory).context(|| "cannot examine the directory")? {
        return Err(Error::new(format!("'{}' is a mount point", path.display())));
    }
    Ok(())
}
