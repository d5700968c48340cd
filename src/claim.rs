//! Claims all that a machine uses exclusively: name, root, user ids, addresses, ports. Each is chosen and
//! locked in one call, and named in the state record before anything else is created. Called by `run`, before
//! it looks at the root. Nothing but lock files, the record and the record of an id range is created here.

mod addresses;
mod claimed_ids;
mod locks;
mod ports;
mod record;

use crate::error::Result;
use crate::host::probe::{self, Tree};
use crate::host::runtime::runtime;
use crate::machine::Machine;
use crate::network::addresses::{AddressPrefix, LinkPlan};
use crate::network::interfaces::{self, ExtraInterface};
use crate::network::veth;
use crate::paths::Paths;
use crate::state::address_conflicts;
use crate::state::id_ranges::RangeRetention;
use crate::state::record::Record;
pub(crate) use claimed_ids::ClaimedIds;
pub(crate) use locks::{address_file, of_claims, refuse_running};
pub(crate) use ports::refuse_claimed;
pub(crate) use record::loopback_resolver;
use rustix::fd::OwnedFd;

/// Undoes all that a record names.
pub(crate) type Undo = fn(&Paths, &Record);

/// The input of a claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClaimRequest<'a> {
    /// The places of Coracle.
    pub(crate) paths: &'a Paths,
    /// The machine.
    pub(crate) machine: &'a Machine,
    /// Its root, opened. `None` for a disk image, which is mounted with its lock held: its files belong to
    /// the range from 0 on.
    pub(crate) root: Option<&'a Tree>,
    /// Whether its range of ids stays recorded.
    pub(crate) keep: RangeRetention,
    /// The unit that the machine will be in. `None` without systemd.
    pub(crate) unit: Option<&'a str>,
    /// Undoes an earlier run of the machine, and a claim that fails.
    pub(crate) undo: Undo,
}

/// The ids, names and addresses of a machine.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// Its user ids.
    pub(crate) ids: ClaimedIds,
    /// Names and addresses of its link. `None` for a machine without one.
    pub(crate) link: Option<LinkPlan>,
    /// Its interfaces beside the link.
    pub(crate) interfaces: Vec<ExtraInterface>,
}

impl Choice {
    /// Refuses hosts' ends that exist: after an earlier run of the machine is undone they are those of
    /// another program. The record must not name them: the undoing would delete them.
    fn refuse_existing_interfaces(&self) -> Result<()> {
        let link = self.link.as_ref().map(|plan| plan.host_interface.as_str());
        let ends = link.into_iter().chain(self.interfaces.iter().filter_map(ExtraInterface::host_end));
        match ends.into_iter().find(|name| veth::exists(name)) {
            Some(name) => Err(veth::belongs_to_another(name)),
            None => Ok(()),
        }
    }
}

/// The claims of a machine.
#[derive(Debug)]
pub(crate) struct Claims {
    /// The ids, names and addresses.
    pub(crate) choice: Choice,
    /// The state record as it is written.
    pub(crate) record: Record,
    /// The locks, held while the machine exists: that of the name is the first.
    pub(crate) locks: Vec<OwnedFd>,
    /// Records of dead machines with ports of this one: their parts of the firewall are deleted before the
    /// first of this one is created.
    pub(crate) dead: Vec<Record>,
}

/// Claims all for a machine that starts. Undoes a claim that fails.
///
/// # Errors
/// A name, root, range of ids, port or interface in use; no free ids or addresses.
#[inline(never)]
pub(crate) fn claim(request: &ClaimRequest<'_>) -> Result<Box<Claims>> {
    let ClaimRequest { paths, machine, undo, .. } = *request;
    let mut locks = vec![locks::name(paths, &machine.name, undo)?];
    let mut record = Record::new(machine.name.clone());
    let claimed = with_name(request, None, &mut record, &mut locks);
    finish(request, claimed, record, locks)
}

/// Claims all for a dead build session that is recovered, with its ids and its changes. Those stay if it fails.
///
/// # Errors
/// Same as [`claim`], or a session that is not dead.
#[inline(never)]
pub(crate) fn claim_dead(request: &ClaimRequest<'_>) -> Result<Box<Claims>> {
    let ClaimRequest { paths, machine, undo, .. } = *request;
    let (lock, dead) = locks::name_of_dead(paths, &machine.name)?;
    undo(paths, &dead);
    // The lock files are taken again.
    let before = Record { files: Vec::new(), ..dead };
    let (mut record, mut locks) = (before.clone(), vec![lock]);
    let claimed = with_name(request, Some(&before), &mut record, &mut locks);
    finish(request, claimed, record, locks)
}

/// Claims all for a guest that reboots: continues the record and the locks of the boot before. What the
/// definition changes is claimed in addition.
///
/// # Errors
/// Same as [`claim`].
#[inline(never)]
pub(crate) fn claim_again(
    request: &ClaimRequest<'_>,
    before: &Record,
    mut locks: Vec<OwnedFd>,
) -> Result<Box<Claims>> {
    let mut record = before.clone();
    let claimed = with_name(request, Some(before), &mut record, &mut locks);
    finish(request, claimed, record, locks)
}

/// Returns what [`claim`] would choose. Creates and locks nothing: another machine may be faster.
///
/// # Errors
/// Same as [`claim`].
pub(crate) fn preview(request: &ClaimRequest<'_>) -> Result<Choice> {
    let host = look(request, None)?;
    choose(&ClaimRequest { keep: RangeRetention::WhileRunning, ..*request }, host, None)
}

/// Undoes claims. All locks but that of the name are released first: a lock file that is locked then belongs
/// to another machine, and stays.
pub(crate) fn abandon(paths: &Paths, undo: Undo, record: &Record, locks: &mut Vec<OwnedFd>) {
    locks.truncate(1);
    undo(paths, record);
}

fn finish(
    request: &ClaimRequest<'_>,
    claimed: Result<(Choice, Vec<Record>)>,
    record: Record,
    mut locks: Vec<OwnedFd>,
) -> Result<Box<Claims>> {
    match claimed {
        Ok((choice, dead)) => Ok(Box::new(Claims { choice, record, locks, dead })),
        Err(error) => {
            abandon(request.paths, request.undo, &record, &mut locks);
            Err(error)
        }
    }
}

/// Chooses, writes the record and takes the locks, with the name locked.
fn with_name(
    request: &ClaimRequest<'_>,
    before: Option<&Record>,
    record: &mut Record,
    locks: &mut Vec<OwnedFd>,
) -> Result<(Choice, Vec<Record>)> {
    let ClaimRequest { paths, machine, .. } = *request;
    let host = look(request, before)?;
    // Until the record names the choice: no other machine chooses meanwhile.
    let _held = locks::of_claims(paths)?;
    let choice = choose(request, host, before)?;
    if before.is_none() {
        choice.refuse_existing_interfaces()?;
        addresses::refuse_mixed_zone(paths, machine)?;
        address_conflicts::refuse_of_machines(paths, machine, &choice.interfaces)?;
    }
    let dead = match before {
        None => ports::refuse_claimed(paths, &machine.name, &machine.network.ports)?,
        Some(_) => Vec::new(),
    };
    let wanted = locks::wanted(paths, machine, &choice)?;
    *record = record::of(paths, machine, &choice, &wanted, before);
    record.unit = request.unit.map(str::to_owned);
    // Before the lock files: after a kill at any later moment `cleanup` finds them here.
    record.write(paths)?;
    let is_held = |file| before.is_some_and(|before| before.files.contains(file));
    for lock in &wanted {
        if is_held(&lock.file) {
            lock.renew(paths, &machine.name, locks)?;
        } else {
            locks.extend(lock.take(paths, &machine.name)?);
        }
    }
    Ok((choice, dead))
}

/// The use of the host's network, read before the lock of claims is taken: the kernel lists links slowly.
struct Host {
    /// `None` for a machine without a link.
    prefixes: Option<Vec<AddressPrefix>>,
    interfaces: Vec<ExtraInterface>,
}

fn look(request: &ClaimRequest<'_>, before: Option<&Record>) -> Result<Host> {
    let machine = request.machine;
    let mut interfaces = ExtraInterface::all(&machine.name, &machine.network, probe::host_id);
    if let Some(before) = before {
        interfaces.iter_mut().for_each(|interface| interface.use_name_of(&before.interfaces));
    } else {
        ports::refuse_listening(request.paths, machine)?;
        address_conflicts::refuse_of_host(request.paths, machine)?;
        if !interfaces.is_empty() {
            runtime()?.block_on(interfaces::check(&mut interfaces))?;
        }
    }
    Ok(Host { prefixes: addresses::prefixes_of_host(machine)?, interfaces })
}

fn choose(request: &ClaimRequest<'_>, host: Host, before: Option<&Record>) -> Result<Choice> {
    let ClaimRequest { paths, machine, root, keep, .. } = *request;
    let ids = claimed_ids::choose(paths, machine, root, keep, before)?;
    let link = host.prefixes.map(|taken| addresses::choose(paths, machine, taken, before)).transpose()?;
    Ok(Choice { ids, link, interfaces: host.interfaces })
}
