//! `rename`: an image, with its definition and all records about it. Called by `cli`.

use super::on_demand;
use super::remove::{on, reload};
use crate::config;
use crate::error::{Error, Result};
use crate::image::{find, recovery, rename};
use crate::machine::name::Name;
use crate::paths::Paths;
use std::path::PathBuf;

/// Renames a machine. Returns the new path of its image, and the number of other renamed files.
///
/// # Errors
/// A name that cannot be renamed. Nothing is changed then.
pub(crate) fn rename(paths: &Paths, old: &Name, new: &Name) -> Result<(Option<PathBuf>, usize)> {
    if old == new {
        return Err(Error::usage(format!("'{old}' has this name already")));
    }
    recovery::recover(paths);
    let mut others = Vec::new();
    if let Some(image) = find::by_name(paths, old) {
        others = on(paths, old, image.path())?;
        let is_named = |resolved: &config::Resolved| {
            resolved.names_root() && resolved.machine.root.path() == image.path()
        };
        if config::machine(paths, old).as_ref().is_ok_and(is_named) {
            return Err(Error::new(format!(
                "cannot rename '{old}' to '{new}': its definition has the path '{}' as its root",
                image.path().display()
            ))
            .with_hint(
                "remove root.directory or root.stack from the definition: the image is found by its name",
            ));
        }
    }
    let renamed = rename::rename(paths, old, new, &others)?;
    reload();
    if on_demand::stop(old) {
        on_demand::start(new);
    }
    Ok(renamed)
}
