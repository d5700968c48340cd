//! Creates a missing root directory from a template (systemd-nspawn(1), `--template=`): a Btrfs snapshot, or a
//! copy with all owners, attributes and devices, which shares blocks if the file system can. Called by `run`.

use super::locks::{self, HeldLocks};
use crate::error::{Context, Error, Result};
use crate::host::lock::LockMode;
use crate::machine::Machine;
use crate::machine::size;
use crate::paths::Paths;
use crate::sys::btrfs;
use crate::tree::entry::Monitor;
use crate::tree::id_mapping::IdMapping;
use crate::tree::tree_writer::TreeWriter;
use crate::tree::walk::{self, Walk};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RenameFlags};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// How a root was created.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// By a snapshot of a subvolume.
    Snapshot,
    /// By a copy of so many bytes; those of shared blocks are not counted.
    Copy(u64),
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Snapshot => f.write_str("a snapshot"),
            Self::Copy(0) => f.write_str("a copy with shared blocks"),
            Self::Copy(bytes) => write!(f, "a copy, {}", size::rounded(*bytes)),
        }
    }
}

/// Creates the root directory of a machine from a template, unless it exists. Until it is complete it has a
/// hidden name, which systemd removes at boot.
///
/// # Errors
/// A template in use, or a file that cannot be copied. No directory is left.
pub(crate) fn create(paths: &Paths, machine: &Machine, template: &Path) -> Result<Option<Method>> {
    let path = machine.root.path();
    // A dangling link is an error later.
    if path.symlink_metadata().is_ok() {
        return Ok(None);
    }
    let doing = || format!("cannot create '{}' from '{}'", path.display(), template.display());
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new("it has no name").context(doing()));
    };
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
    copy(&source, above, name).map(Some).map_err(|error| error.context(doing()))
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
    btrfs::snapshot(source.as_fd(), above.as_fd(), &draft).context(|| "cannot create a snapshot")?;
    let renamed = rustix::fs::syncfs(above)
        .and_then(|()| rustix::fs::renameat_with(above, &draft, above, name, RenameFlags::NOREPLACE))
        .and_then(|()| rustix::fs::fsync(above));
    if renamed.is_err() {
        remove_drafts(above.as_fd(), name)?;
    }
    renamed.context(|| "cannot rename the snapshot")
}

fn copy(source: &OwnedFd, above: OwnedFd, name: &OsStr) -> Result<Method> {
    let mut writer = TreeWriter::new(above, draft(name), IdMapping::HOST);
    let mut monitor = Count(0);
    Walk::run_exactly(source, &mut writer, &mut monitor)?;
    writer.finish_durably(name)?;
    Ok(Method::Copy(monitor.0))
}

/// Counts the copied bytes.
struct Count(u64);

impl Monitor for Count {
    fn count_entry(&mut self) -> Result<()> {
        Ok(())
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.0 += bytes;
        Ok(())
    }

    fn skip(&mut self, path: &Path, reason: &str) {
        log::warn!("skipping '{}': {reason}", path.display());
    }

    fn interrupts(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
