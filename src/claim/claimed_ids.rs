//! Chooses the range of user ids of a machine. Called by `claim`, with the lock of claims held.

use crate::error::Result;
use crate::host::probe::Tree;
use crate::machine::Machine;
use crate::machine::users::{NESTING_RANGE_SIZE, Ownership, RANGE_SIZE, Users};
use crate::paths::Paths;
use crate::state::id_ranges::{self, RangeRetention};
use crate::state::record::Record;
use std::path::Path;

/// The user ids of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClaimedIds {
    /// The first host id of the range. `None` without a user namespace.
    pub(crate) base: Option<u32>,
    /// Whether the owners of the root are in that range already: its ids are not mapped.
    pub(crate) has_shifted_owners: bool,
}

/// Chooses the range: after a reboot the one before it (`before`).
pub(super) fn choose(
    paths: &Paths,
    machine: &Machine,
    root: &Tree,
    keep: RangeRetention,
    before: Option<&Record>,
) -> Result<ClaimedIds> {
    let (name, count, owners) = (&machine.name, machine.id_count(), base_of_owners(machine, root)?);
    let base = match (before, machine.users) {
        (Some(before), _) => before.id_base,
        (None, Users::Pick) => Some(match owners {
            None => id_ranges::choose(paths, name, keep, count)?,
            Some(base) if base % RANGE_SIZE == 0 => id_ranges::adopt(paths, name, base, keep, count)?,
            Some(base) => {
                return Err(id_ranges::shifted(base, "which does not begin at a multiple of 65536"));
            }
        }),
        (None, Users::Fixed { base, .. }) => Some(base),
        (None, Users::Identity) => Some(0),
        (None, Users::Host) => None,
    };
    Ok(ClaimedIds { base, has_shifted_owners: base.is_some() && owners == base })
}

/// Returns the first ids of the ranges that are locked while the machine runs.
pub(super) fn locked(machine: &Machine, base: Option<u32>) -> impl Iterator<Item = u32> + use<> {
    let count = machine.id_count().min(NESTING_RANGE_SIZE);
    let is_exclusive = matches!(machine.users, Users::Pick | Users::Fixed { .. });
    base.filter(|_| is_exclusive).into_iter().flat_map(move |base| id_ranges::bases(base, count))
}

/// Returns the first id of the range that contains the owners of a root, if its ids would be mapped: another
/// container manager has changed the owners. `None` for a root whose owners begin at 0.
fn base_of_owners(machine: &Machine, root: &Tree) -> Result<Option<u32>> {
    if machine.ownership == Ownership::Off || !matches!(machine.users, Users::Pick | Users::Fixed { .. }) {
        return Ok(None);
    }
    let (uid, gid) = root.owner(Path::new("/"))?;
    let is_one_range = gid.checked_sub(uid).is_some_and(|group| group < RANGE_SIZE);
    Ok((uid >= RANGE_SIZE && is_one_range).then_some(uid))
}
