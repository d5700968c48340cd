//! Changes the owners of the files of an image on the disk. Called by `run`, with the lock of the image held.

use crate::error::Result;
use crate::machine::Machine;
use crate::sys::process::interrupt;
use crate::tree::owners;

/// Gives the files of the root to the machine's range of ids, from `base` on.
///
/// # Errors
/// An entry whose owner cannot be changed. A later start continues.
pub(crate) fn change(machine: &Machine, base: u32) -> Result<()> {
    let root = machine.root.path();
    log::info!("changing the owners of the files in '{}' to the range from {base} on", root.display());
    let changed = owners::change(root, base, &mut interrupt::check).map_err(|error| {
        error.with_hint("the next start continues; users.ownership = \"map\" does not change files")
    })?;
    log::debug!("changed the owners of {changed} files");
    Ok(())
}
