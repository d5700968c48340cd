//! Attaches a root whose mounts exist already, as detached mounts: a stack. Called by the builder.

use super::mounts::{make_directories, open_target};
use super::tree_paths::TreePaths;
use crate::error::{Context, Error, Result};
use crate::sys::{mount, process};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::CWD;
use std::path::{Path, PathBuf};

/// Attaches the first mount as the root at a directory, and the other ones below it at their targets. Creates
/// missing mount points as the guest's root: the host's root has no id in it.
///
/// # Errors
/// A missing mount point of a read-only root, or a mount that the kernel refuses.
pub(super) fn attach(
    mounts: &[BorrowedFd<'_>],
    targets: &[PathBuf],
    at: &Path,
    mount_points: &[PathBuf],
    owner: u32,
) -> Result<TreePaths> {
    let (root, further) =
        mounts.split_first().ok_or_else(|| Error::new("the builder has received no root"))?;
    mount::attach_at(*root, CWD, at).context(|| "cannot attach the root")?;
    let root = rustix::io::fcntl_dupfd_cloexec(root, 3).context(|| "cannot keep a descriptor")?;
    let paths = TreePaths::new(root);
    if owner != 0 {
        process::make_files_as(owner)?;
    }
    for point in mount_points {
        make_directories(&paths, point, owner)?;
    }
    for (target, mounted) in targets.iter().zip(further) {
        make_directories(&paths, target, owner)?;
        let place = open_target(&paths, target)?;
        mount::attach(*mounted, place.as_fd())
            .context(|| format!("cannot mount on '{}'", target.display()))?;
    }
    Ok(paths)
}
