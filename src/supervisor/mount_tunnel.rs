//! The directory of the host in which machined leaves mounts for a machine (`machinectl bind`). Called by
//! `launch` and `cleanup`.
//!
//! SYSTEMD(255): later versions mount in the namespace of the machine.

use crate::error::{Context, Result};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Creates the directory, as systemd-nspawn(1) does.
///
/// # Errors
/// Any error of mkdir(2).
pub(super) fn create(directory: &Path) -> Result<()> {
    let creating = || format!("cannot create '{}'", directory.display());
    let of_all = directory.parent();
    of_all.and_then(Path::parent).map_or(Ok(()), std::fs::create_dir_all).context(creating)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).context(creating)
}

/// Deletes the directory, with what a killed machined has left in it.
///
/// # Errors
/// Any error of rmdir(2) and unlink(2), a mount in it for example.
pub(super) fn remove(directory: &Path) -> Result<()> {
    let removing = || format!("cannot remove '{}'", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context(removing)?,
    };
    for entry in entries {
        let path = entry.context(removing)?.path();
        std::fs::remove_dir(&path).or_else(|_| std::fs::remove_file(&path)).context(removing)?;
    }
    std::fs::remove_dir(directory).context(removing)
}
