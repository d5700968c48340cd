//! Telling machined of a machine: at its start, after its reboot, and when machined comes back.

use crate::error::{Error, Result};
use crate::host::machined::{self, Outcome, Previous, Registration};
use crate::host::state::Record;
use crate::machine::name::Name;
use rustix::fd::BorrowedFd;

/// Registers the machine of a record, whose PID 1 is behind `leader`. Has to be called by the
/// supervisor itself: machined takes the caller for it (SIGTERM of `machinectl terminate`).
///
/// # Errors
/// A live machine of another manager has the name, or machined refuses.
pub fn register(
    record: &Record,
    leader: BorrowedFd<'_>,
    machine_id: [u8; 16],
    previous: Previous,
) -> Result<Outcome> {
    let name = Name::new(&record.name)?;
    let pid = record.leader.ok_or_else(|| Error::new("the machine has no PID 1"))?;
    let registration = Registration {
        name: &name,
        machine_id,
        leader: pid,
        leader_pidfd: leader,
        root: &record.root,
        ifindex: record.host_ifindex,
        unit: record.unit.as_deref(),
        previous,
    };
    super::runtime()?.block_on(machined::register(&registration))
}
