//! The guest's `/etc/localtime` (localtime(5)), set before PID 1 starts. Called by the builder. It writes
//! inside the tree only.

use super::host_mounts::HostMounts;
use super::tree_paths::TreePaths;
use crate::error::{Context, Error, Result};
use crate::plan::step::{TimezoneAction, ZONES};
use crate::sys::mount::{self, Depth, MountAttributes};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::io::Write;
use std::path::Path;

const NAME: &str = "localtime";
const FILE: &str = "/etc/localtime";

/// Carries out the action. A link to a zone that the tree lacks is replaced by a bind mount.
///
/// # Errors
/// A file that can be neither written nor covered.
pub(super) fn set(paths: &TreePaths, host: &HostMounts, action: &TimezoneAction, owner: u32) -> Result<()> {
    let etc = paths
        .open_as(Path::new("/etc"), OFlags::PATH | OFlags::DIRECTORY)
        .context(|| "cannot open '/etc' in the tree")?;
    match action {
        TimezoneAction::Delete => remove(&etc).context(|| format!("cannot remove '{FILE}' in the tree")),
        TimezoneAction::Copy(content) => {
            copy(&etc, content, owner).context(|| format!("cannot write '{FILE}' in the tree"))
        }
        // A link to a missing zone stays, as with systemd-nspawn(1).
        TimezoneAction::Link { zone, .. } if is_linked(&etc, zone) => Ok(()),
        TimezoneAction::Link { zone, .. } if has_zone(paths, zone) => link(&etc, zone, owner),
        TimezoneAction::Bind(file) | TimezoneAction::Link { file, .. } => {
            bind(paths, host, &etc, file, owner)
        }
    }
}

fn has_zone(paths: &TreePaths, zone: &str) -> bool {
    paths.open_as(&Path::new(ZONES).join(zone), OFlags::PATH).is_ok()
}

/// Returns whether the file is a link to a zone.
fn is_linked(etc: &OwnedFd, zone: &str) -> bool {
    let existing = rustix::fs::readlinkat(etc, NAME, Vec::new());
    existing.is_ok_and(|existing| TimezoneAction::zone(&existing.to_string_lossy()) == Some(zone))
}

/// Links the file to a zone.
fn link(etc: &OwnedFd, zone: &str, owner: u32) -> Result<()> {
    let to = format!("..{ZONES}/{zone}");
    let linked = || -> rustix::io::Result<()> {
        remove(etc)?;
        rustix::fs::symlinkat(&to, etc, NAME)?;
        rustix::fs::chownat(
            etc,
            NAME,
            Some(Uid::from_raw(owner)),
            Some(Gid::from_raw(owner)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    };
    linked().context(|| format!("cannot link '{FILE}' in the tree to '{to}'"))
}

/// Deletes the file or link. A directory stays.
fn remove(etc: &OwnedFd) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(etc, NAME, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Replaces the file or link.
fn copy(etc: &OwnedFd, content: &[u8], owner: u32) -> std::io::Result<()> {
    remove(etc)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(etc, NAME, flags, Mode::from_raw_mode(0o644))?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    std::fs::File::from(file).write_all(content)
}

/// Mounts the file of the host over that of the tree, or over the target of its link. A missing file is
/// created.
fn bind(paths: &TreePaths, host: &HostMounts, etc: &OwnedFd, file: &Path, owner: u32) -> Result<()> {
    let open = || paths.open_as(Path::new(FILE), OFlags::PATH);
    let place = match open() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            copy(etc, b"", owner).and_then(|()| open())
        }
        place => place,
    };
    let place = place.context(|| format!("cannot create the mount target '{FILE}' in the tree"))?;
    let tree = host.visit(|| {
        let from = rustix::fs::open(file, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let from = from.context(|| format!("cannot open '{}'", file.display()))?;
        mount::copy_tree(from.as_fd(), Depth::One).context(|| "cannot copy the mount")
    })?;
    mount::separate(tree.as_fd(), None, MountAttributes::INERT.read_only())
        .context(|| "cannot restrict it")?;
    mount::attach(tree.as_fd(), place.as_fd())
        .map_err(|error| Error::from(error).context(format!("cannot mount on '{FILE}'")))
}
