//! `prune` and `verify`: the state of the store and of images. Called by `cli`.

use super::defined_stacks;
use crate::error::{Error, Result};
use crate::image::prune::{self, PruneMode, UnusedLayer};
use crate::image::verify;
use crate::machine::name::Name;
use crate::machine::size;
use crate::paths::Paths;

/// Removes layers without users and what killed verbs have left. Returns a line for each layer.
///
/// # Errors
/// A directory that cannot be read, or a user of the store that keeps its lock.
pub(crate) fn prune(paths: &Paths, is_dry_run: bool) -> Result<String> {
    let (mode, action) =
        if is_dry_run { (PruneMode::DryRun, "is not used") } else { (PruneMode::Remove, "removed") };
    defined_stacks::record(paths)?;
    let layers = prune::prune(paths, mode)?;
    let line =
        |layer: &UnusedLayer| format!("layer {} {action} ({})\n", layer.id, size::rounded(layer.bytes));
    Ok(layers.iter().map(line).collect())
}

/// Checks an image.
///
/// # Errors
/// A missing image, or all of its problems.
pub(crate) fn verify(paths: &Paths, name: &Name) -> std::result::Result<(), Vec<Error>> {
    let problems = verify::problems(paths, name).map_err(|error| vec![error])?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(problems.into_iter().map(|problem| Error::new(format!("image '{name}': {problem}"))).collect())
}
