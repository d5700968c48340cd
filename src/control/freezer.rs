//! `freeze` and `thaw`: suspends and resumes all processes of a machine. Only the guest's cgroup is frozen,
//! not its unit: the supervisor continues to answer, and a stop thaws first. The guest cannot thaw itself,
//! since that file of its cgroup is not delegated.

use super::{BatchResult, each, running};
use crate::error::{Error, Result};
use crate::host::cgroup;
use crate::host::systemd::units;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The interval between two looks at a paused machine.
const LOOK: Duration = Duration::from_millis(20);
/// The limit of the wait for the end of a pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Freezes all processes of machines.
///
/// # Errors
/// One per machine that is not running or cannot be frozen.
pub(crate) fn freeze(paths: &Paths, names: &[Name]) -> BatchResult {
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

/// Resumes machines, including those frozen by 'systemctl freeze'.
///
/// # Errors
/// One per machine that is not running or cannot be thawed.
pub(crate) fn thaw(paths: &Paths, names: &[Name]) -> BatchResult {
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

/// Returns an error for a frozen machine: a process that enters it would be frozen too. The end of a pause for
/// a snapshot is waited for.
pub(super) fn refuse_frozen(paths: &Paths, record: &Record) -> Result<()> {
    let Some(payload) = record.payload_cgroup() else { return Ok(()) };
    let since = Instant::now();
    let mut was_paused = true;
    while cgroup::is_frozen(&payload) {
        let is_paused = paths.paused(&record.name).exists();
        // At the end of a pause, the machine is thawed after a moment.
        if !is_paused && !was_paused || since.elapsed() > LONGEST_PAUSE {
            return Err(Error::new(format!("machine '{}' is frozen", record.name))
                .with_hint(format!("resume it first: coracle thaw {}", record.name)));
        }
        was_paused = is_paused;
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Returns the guest's cgroup.
fn payload(record: &Record) -> Result<PathBuf> {
    record.payload_cgroup().ok_or_else(|| {
        Error::new(format!("machine '{}' has no cgroup of its own", record.name))
            .with_hint("boot the host with a unified cgroup hierarchy")
    })
}
