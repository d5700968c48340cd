//! Chooses the range of user ids of a machine. Called by `claim`, with the lock of claims held.

use crate::error::{Error, Result};
use crate::host::probe::Tree;
use crate::machine::Machine;
use crate::machine::users::{FOREIGN_BASE, NESTING_RANGE_SIZE, Ownership, RANGE_SIZE, Users};
use crate::paths::Paths;
use crate::state::id_ranges::{self, RangeRetention};
use crate::state::record::Record;
use std::path::Path;

/// The user ids of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClaimedIds {
    /// The first host id of the range. `None` without a user namespace.
    pub(crate) base: Option<u32>,
    /// The first id of the owners of files on the disk, if their ids are mapped to that range.
    pub(crate) mapped_from: Option<u32>,
    /// Whether the owners of the files are changed to that range first.
    pub(crate) changes_owners: bool,
}

/// Chooses the range: after a reboot the one before it (`before`).
pub(super) fn choose(
    paths: &Paths,
    machine: &Machine,
    root: Option<&Tree>,
    keep: RangeRetention,
    before: Option<&Record>,
) -> Result<ClaimedIds> {
    let owners = owners(machine, root)?;
    let base = match (before, machine.users) {
        (Some(before), _) => before.id_base,
        (None, Users::Pick) => Some(pick(paths, machine, keep, owners)?),
        (None, Users::OfRoot) => Some(base_of_root(root)?),
        (None, Users::Fixed { base, .. }) => Some(base),
        (None, Users::Identity) => Some(0),
        (None, Users::Host) => None,
    };
    let differs = base.is_some() && owners.is_some() && owners != base;
    // A root that is not written to is mapped: its files keep their owners.
    let changes_owners = differs && machine.ownership == Ownership::Chown && !machine.root.is_shared();
    Ok(ClaimedIds { base, mapped_from: owners.filter(|_| differs && !changes_owners), changes_owners })
}

/// Picks a range: that of the owners on the disk if it is free, as nothing needs to be mapped then.
fn pick(paths: &Paths, machine: &Machine, keep: RangeRetention, owners: Option<u32>) -> Result<u32> {
    let (name, count) = (&machine.name, machine.id_count());
    let is_possible = |base: &u32| *base != 0 && *base != FOREIGN_BASE && base.is_multiple_of(RANGE_SIZE);
    let adopt = |base: u32| id_ranges::adopt(paths, name, base, keep, count);
    match owners.filter(is_possible).map(adopt).transpose()?.flatten() {
        Some(base) => Ok(base),
        None => id_ranges::choose(paths, name, keep, count),
    }
}

/// Returns the first ids of the ranges that are locked while the machine runs.
pub(super) fn locked(machine: &Machine, base: Option<u32>) -> impl Iterator<Item = u32> + use<> {
    let count = machine.id_count().min(NESTING_RANGE_SIZE);
    let is_exclusive = machine.users.are_separate() || machine.users == Users::OfRoot;
    let base = base.filter(|base| is_exclusive && *base != 0);
    base.into_iter().flat_map(move |base| id_ranges::bases(base, count))
}

/// Returns the first id of the range of the owners of a root on the disk, if the machine treats them as one
/// of its ranges: 0 for a root that no container manager has changed. `None` if files keep their owners.
fn owners(machine: &Machine, root: Option<&Tree>) -> Result<Option<u32>> {
    if machine.ownership == Ownership::Off || machine.users == Users::Host {
        return Ok(None);
    }
    let Some(root) = root else { return Ok(Some(0)) };
    let (uid, gid) = root.owner(Path::new("/"))?;
    let is_one_range = gid.checked_sub(uid).is_some_and(|group| group < RANGE_SIZE);
    Ok(Some(if uid >= RANGE_SIZE && is_one_range { uid } else { 0 }))
}

/// Returns the first id of the range that contains the owner and the group of a root, as systemd-nspawn(1),
/// `--private-users=yes`.
fn base_of_root(root: Option<&Tree>) -> Result<u32> {
    let Some(root) = root else { return Ok(0) };
    let (uid, gid) = root.owner(Path::new("/"))?;
    let [base, other] = [uid, gid].map(|id| id - id % RANGE_SIZE);
    if base == other {
        return Ok(base);
    }
    Err(Error::new(format!(
        "user {uid} and group {gid} of the root are not in one range of {RANGE_SIZE} ids"
    ))
    .with_hint("write \"pick\": the machine gets a range of its own, files do not change"))
}
