//! The state record of a launch: the undo list, before anything on it is made. `launch` begins with it.

use super::super::network::firewall;
use super::super::reserve;
use super::Ask;
use crate::host::process::start_time;
use crate::host::program::Program;
use crate::machine::command::Payload;
use crate::machine::users::{NESTING_RANGE_SIZE, Users};
use crate::network::firewall::{Member, TrafficPolicy};
use crate::network::interfaces::ExtraInterface;
use crate::network::networkd;
use crate::plan::identity;
use crate::plan::step::BuildStep;
use crate::state::id_ranges;
use crate::state::record::{Phase, Record, Syscalls};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// The record as it can be written before anything is made: everything that will be has its name.
pub(super) fn of(ask: &Ask<'_>) -> Record {
    let machine = ask.machine;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let pid = std::process::id();
    let has_host_ids = matches!(machine.users, Users::Host | Users::Identity);
    let unconfined = [(has_host_ids, "users"), (!machine.network.mode.is_private(), "network")];
    let mut record = ask.kept.as_ref().map(|kept| kept.state.record.clone()).unwrap_or_default();
    record.name = machine.name.to_string();
    record.phase = Phase::Starting;
    record.is_late = false;
    record.waits_for = None;
    record.unit.clone_from(&ask.unit);
    record.supervisor = pid;
    record.supervisor_start = start_time(pid).unwrap_or_default();
    // A reboot in place executes the same program again.
    if ask.kept.is_none() {
        record.program = Program::current();
    }
    record.init = match machine.command.payload {
        Payload::Boot { .. } => ask.plan.init.as_str().into(),
        Payload::Command { .. } => "command".into(),
    };
    record.started = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    record.machine_id = identity::plain(ask.machine_id);
    record.root.clone_from(&machine.root.directory);
    record.cgroup = ask.cgroup.as_ref().map(|cgroup| cgroup.directory.clone());
    record.cgroup_is_ours = ask.cgroup.as_ref().is_some_and(|cgroup| cgroup.is_ours);
    record.id_base = ask.plan.id_map.map(|(base, _)| base);
    record.capabilities = ask.plan.capabilities;
    record.syscalls = Syscalls {
        allow: machine.security.syscalls_allow.clone(),
        deny: machine.security.syscalls_deny.clone(),
        socketcall: ask.socketcall,
    };
    record.procfs_full = ask.plan.procfs_full;
    record.nesting = machine.security.nesting;
    record.no_new_privileges = machine.security.no_new_privileges;
    record.unconfined = unconfined.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).into()).collect();
    record.owned_trees = machine.owned_trees().into_iter().map(Into::into).collect();
    record.resolver = ask.plan.build.iter().any(BuildStep::follows_name_servers);
    if let Some(plan) = &ask.link {
        record.host_interface = Some(plan.host_interface.clone());
        record.ports = machine.network.ports.iter().map(ToString::to_string).collect();
        let bounds = TrafficPolicy::of(&machine.network);
        let defined = Member::new(plan, &machine.network.ports)
            .with_policy(bounds)
            .with_resolver(firewall::loopback_resolver(ask.paths, &record));
        // What a reboot finds in the firewall is changed there, when the link is made.
        let found = record.firewall.take().filter(|found| found.interface() == defined.interface());
        record.firewall = Some(found.unwrap_or(defined));
        record.zone.clone_from(&plan.zone);
    }
    if ask.kept.is_none() {
        // A reboot's record knows more of them.
        record.interfaces.clone_from(&ask.wires);
        record.extras = ask.wires.iter().filter_map(ExtraInterface::extra).collect();
    }
    if ask.link.is_none() {
        record.host_interface = ask.wires.iter().find_map(ExtraInterface::host_end).map(str::to_owned);
    }
    record.files = files(ask);
    record
}

/// The ranges of ids that are locked while the machine runs, by their first ids.
pub(super) fn locked_ids(ask: &Ask<'_>) -> impl Iterator<Item = u32> + use<> {
    let range = ask.plan.id_map.filter(|_| ask.locks_ids);
    range.into_iter().flat_map(|(base, count)| id_ranges::bases(base, count.min(NESTING_RANGE_SIZE)))
}

/// Every file that a machine has outside of its own state directory.
fn files(ask: &Ask<'_>) -> Vec<PathBuf> {
    let own = ask.link.as_ref().filter(|plan| plan.zone.is_none());
    let link = own.map(|_| networkd::host_file(ask.paths, &ask.machine.name));
    let ids = locked_ids(ask).map(|base| id_ranges::lock_file(ask.paths, base));
    let root = reserve::root_file(ask.paths, ask.root_identity);
    let address = own.map(|plan| reserve::address_file(ask.paths, plan.ipv4.guest));
    link.into_iter().chain(ids).chain([root]).chain(address).collect()
}
