//! The path of the host that leads into the root of a build session, for programs that look at its files. Called by
//! `launch` and `cleanup`.
//!
//! It is a mount, and not a link to `/proc/PID/root`: lsof(8), which piuparts(1) asks for the processes of a session to
//! kill them, takes the target of such a link for the root of the host.

use crate::error::{Context, Result};
use crate::sys::mount::{self, Depth, MountAttributes};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Mounts a detached root in a directory of the host, without the file systems inside it. Only root can reach it,
/// programs there have no rights of their owner, and devices have no effect. The root is replaced by a copy for the
/// session.
///
/// # Errors
/// Any error of mkdir(2), chmod(2), move_mount(2) and open_tree(2).
pub(super) fn expose(root: &mut OwnedFd, path: &Path) -> Result<()> {
    let doing = || format!("cannot mount the root of the session at '{}'", path.display());
    // That of a killed supervisor, or of the boot before.
    conceal(path)?;
    std::fs::create_dir_all(path).context(doing)?;
    let directory = path.parent().unwrap_or(path);
    std::fs::set_permissions(directory, Permissions::from_mode(0o700)).context(doing)?;
    let place = mount::open_directory(path)?;
    // KERNEL(6.15): before, only attached mounts can be copied.
    mount::attach(root.as_fd(), place.as_fd()).context(doing)?;
    let copy = mount::copy_tree(root.as_fd(), Depth::One).context(doing)?;
    mount::separate(copy.as_fd(), None, MountAttributes::default()).context(doing)?;
    let inert = MountAttributes { no_setuid: true, no_devices: true, ..MountAttributes::default() };
    mount::separate(root.as_fd(), None, inert).context(doing)?;
    *root = copy;
    Ok(())
}

/// Unmounts the root, also if a program uses it. A path without a mount is no error.
///
/// # Errors
/// Any other error of umount2(2).
pub(super) fn conceal(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        unmounted => unmounted.context(|| format!("cannot unmount '{}'", path.display())),
    }
}
