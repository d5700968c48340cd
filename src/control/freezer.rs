//! freeze and thaw: all processes of a machine stand still, and go on. Only the guest's cgroup is
//! frozen and not the unit: the supervisor goes on to answer, and a stop thaws first. The guest
//! cannot thaw itself, since that file of its cgroup is not delegated.

use super::{Outcome, each, running};
use crate::error::{Error, Result};
use crate::host::cgroup;
use crate::host::systemd::units;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use std::path::PathBuf;

/// Stops all processes of machines where they are.
///
/// # Errors
/// One for each machine that does not run or cannot be frozen.
pub fn freeze(paths: &Paths, names: &[Name]) -> Outcome {
    each(names, |name| {
        let payload = payload(&running(paths, name)?)?;
        cgroup::set_frozen(&payload, true).map_err(|error| {
            if let Err(second) = cgroup::set_frozen(&payload, false) {
                log::debug!("{second}, ignoring");
            }
            error.context(format!("machine '{name}'"))
        })
    })
}

/// Lets machines go on, also those that 'systemctl freeze' stopped.
///
/// # Errors
/// One for each machine that does not run or cannot be thawed.
pub fn thaw(paths: &Paths, names: &[Name]) -> Outcome {
    each(names, |name| {
        let record = running(paths, name)?;
        let payload = payload(&record)?;
        let above = payload.parent().is_some_and(cgroup::is_frozen);
        if let Some(unit) = record.unit.as_deref().filter(|_| above) {
            super::block_on(units::thaw(unit))??;
        }
        cgroup::set_frozen(&payload, false).map_err(|error| error.context(format!("machine '{name}'")))
    })
}

/// An error where a machine stands still: who enters it would stand still with it.
pub(super) fn refuse_frozen(record: &Record) -> Result<()> {
    match record.payload_cgroup() {
        Some(payload) if cgroup::is_frozen(&payload) => {
            Err(Error::new(format!("machine '{}' is frozen", record.name))
                .with_hint(format!("let it go on first: coracle thaw {}", record.name)))
        }
        _ => Ok(()),
    }
}

/// The guest's cgroup.
fn payload(record: &Record) -> Result<PathBuf> {
    record.payload_cgroup().ok_or_else(|| {
        Error::new(format!("machine '{}' has no cgroup of its own", record.name))
            .with_hint("a host without a unified cgroup hierarchy cannot freeze machines")
    })
}
