//! Creates a missing root directory from a template (systemd-nspawn(1), `--template=`): a Btrfs snapshot, or
//! a copy with all owners, attributes and devices, which shares blocks if the file system can. Called by
//! `run`.

use super::locks::{self, HeldLocks};
use crate::error::{Context, Error, Result};
use crate::host::lock::LockMode;
use crate::machine::Machine;
use crate::machine::size;
use crate::paths::Paths;
use crate::sys::btrfs::{self, Access};
use crate::tree;
use crate::tree::copy::{Copied, CopyMethod, CopyProgress};
use crate::tree::walk;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RenameFlags};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The method that has created a root.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// By a snapshot of a subvolume.
    Snapshot,
    /// By a copy.
    Copy(Copied),
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Snapshot => f.write_str("a snapshot"),
            Self::Copy(Copied { method: CopyMethod::Reflink, .. }) => {
                f.write_str("a copy with shared blocks")
            }
            Self::Copy(copied) => write!(f, "a copy, {}", size::rounded(copied.bytes)),
        }
    }
}

/// Creates the root directory of a machine from a template, unless it exists. Until it is complete it has a
/// hidden name, which systemd removes at boot. `progress` is called with the bytes copied so far.
///
/// # Errors
/// A template in use, or a file that cannot be copied. No directory is left.
pub(crate) fn create(
    paths: &Paths,
    machine: &Machine,
    template: &Path,
    progress: &mut CopyProgress<'_>,
) -> Result<Option<Method>> {
    let path = machine.root.path();
    // A dangling link is an error later.
    if path.symlink_metadata().is_ok() {
        return Ok(None);
    }
    let doing = || format!("cannot create '{}' from '{}'", path.display(), template.display());
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new("it has no name").context(doing()));
    };
    let is_inside = |above: std::io::Result<PathBuf>, template: std::io::Result<PathBuf>| {
        above.is_ok_and(|above| template.is_ok_and(|template| above.starts_with(template)))
    };
    if is_inside(above.canonicalize(), template.canonicalize()) {
        let error =
            Error::new("the new root is inside of its template").with_hint("choose another directory");
        return Err(error.context(doing()));
    }
    let mut held = HeldLocks::default();
    held.take(paths, [locks::of_name(paths, &machine.name, path)])?;
    held.take(paths, locks::of_path(paths, template, LockMode::Shared)?)?;
    let above = open(above).context(doing)?;
    remove_drafts(above.as_fd(), name).map_err(|error| error.context(doing()))?;
    let source = open(template).context(doing)?;
    if btrfs::is_subvolume(source.as_fd()) && btrfs::is_alone(source.as_fd()) {
        match snapshot(&source, &above, name) {
            Ok(()) => return Ok(Some(Method::Snapshot)),
            // For example another file system.
            Err(error) => log::debug!("{error}, copying instead"),
        }
    }
    copy(&source, &above, name, progress).map(Some).map_err(|error| error.context(doing()))
}

fn open(directory: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}

/// Returns the name of a draft. The lock of the name is held: there is one at a time.
fn draft(name: &OsStr) -> OsString {
    let mut draft = OsString::from(".#");
    draft.push(name);
    draft.push(".template");
    draft
}

/// Removes the draft of a process that was killed.
fn remove_drafts(above: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    walk::remove(above, &draft(name))
}

fn snapshot(source: &OwnedFd, above: &OwnedFd, name: &OsStr) -> Result<()> {
    let draft = draft(name);
    btrfs::snapshot(source.as_fd(), above.as_fd(), &draft, Access::Writable)
        .context(|| "cannot create a snapshot")?;
    publish(above, &draft, name)
}

fn copy(source: &OwnedFd, above: &OwnedFd, name: &OsStr, progress: &mut CopyProgress<'_>) -> Result<Method> {
    let draft = draft(name);
    let copied = tree::copy::copy(source.as_fd(), above.as_fd(), &draft, progress)?;
    publish(above, &draft, name)?;
    Ok(Method::Copy(copied))
}

/// Renames a complete draft as the last step, after all of it is on the disk: a tree with its name is
/// complete, also after a power cut.
fn publish(above: &OwnedFd, draft: &OsStr, name: &OsStr) -> Result<()> {
    let renamed = rustix::fs::syncfs(above)
        .and_then(|()| rustix::fs::renameat_with(above, draft, above, name, RenameFlags::NOREPLACE))
        .and_then(|()| rustix::fs::fsync(above));
    if renamed.is_err() {
        remove_drafts(above.as_fd(), name)?;
    }
    renamed.context(|| "cannot rename the copy")
}
