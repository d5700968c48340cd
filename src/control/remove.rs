//! `remove`: images, with all records about them. Called by `cli`.

use super::{BatchResult, block_on, defined_stacks, on_demand, service};
use crate::config;
use crate::error::{Error, Result};
use crate::host::systemd::units;
use crate::image::{find, prune, recovery, remove};
use crate::machine::name::Name;
use crate::paths::Paths;
use std::path::Path;

pub(crate) use crate::image::remove::{Purge, Removal};

/// Removes images. One that another one of them stands on is removed after it. `report` is called for each
/// removed one.
///
/// # Errors
/// One per image that is not removed.
pub(crate) fn remove(
    paths: &Paths,
    names: &[Name],
    purge: Purge,
    mut report: impl FnMut(&Name, &Removal),
) -> BatchResult {
    recovery::recover(paths);
    defined_stacks::record(paths).map_err(|error| vec![error])?;
    let mut left: Vec<&Name> = Vec::new();
    for name in names {
        if !left.contains(&name) {
            left.push(name);
        }
    }
    let all = left.len();
    loop {
        let before = left.len();
        let mut errors = Vec::new();
        left.retain(|name| match remove_one(paths, name, purge) {
            Ok(removal) => {
                report(name, &removal);
                false
            }
            Err(error) => {
                errors.push(error);
                true
            }
        });
        if left.is_empty() || left.len() == before {
            if left.len() < all {
                prune::after_removal(paths);
                reload();
                for name in names.iter().filter(|name| !left.contains(name)) {
                    on_demand::stop(name);
                }
            }
            return if errors.is_empty() { Ok(()) } else { Err(errors) };
        }
    }
}

fn remove_one(paths: &Paths, name: &Name, purge: Purge) -> Result<Removal> {
    let image = find::by_name(paths, name);
    let others = image.map_or_else(|| Ok(Vec::new()), |image| on(paths, name, image.path()))?;
    let unit = failed_unit(paths, name);
    let mut removal = remove::remove(paths, name, purge, &others, unit.is_some())?;
    removal.reset_unit = unit.filter(|unit| {
        let reset = block_on(units::reset_failed(unit)).and_then(|reset| reset);
        reset.inspect_err(|error| log::warn!("{error}, ignoring")).is_ok()
    });
    Ok(removal)
}

/// Returns the unit of a machine if it has failed.
fn failed_unit(paths: &Paths, name: &Name) -> Option<String> {
    if !units::is_running() {
        return None;
    }
    let unit = service(paths, name);
    let status = block_on(units::unit_properties(&unit)).and_then(|status| status).ok()?;
    (status.active_state == "failed").then_some(unit)
}

/// Returns the other machines whose definitions have an image as their root.
///
/// # Errors
/// A directory of definitions that cannot be read.
pub(super) fn on(paths: &Paths, name: &Name, image: &Path) -> Result<Vec<Name>> {
    let same = |path: &Path| path == image || path.canonicalize().ok() == image.canonicalize().ok();
    // An invalid definition starts no machine.
    let is_on =
        |other: &Name| config::machine(paths, other).is_ok_and(|resolved| same(resolved.machine.root.path()));
    let others = config::names(paths)?.into_iter().filter(|other| other != name);
    Ok(others.filter(is_on).collect())
}

/// Reloads systemd, whose units depend on the definitions of machines.
pub(super) fn reload() {
    if !units::is_running() {
        return;
    }
    let reloaded: Result<()> = block_on(units::reload()).and_then(|reloaded| reloaded);
    reloaded.unwrap_or_else(|error: Error| log::warn!("{error}, ignoring"));
}
