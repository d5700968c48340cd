//! Completes the state record of a claim with the plan, before the first host step. Called by `launch`.

use super::LaunchRequest;
use crate::machine::command::Payload;
use crate::machine::contract::Contract;
use crate::machine::init::PayloadKind;
use crate::state::record::Record;

/// Adds the facts of the plan, the unit and the cgroup to a record.
pub(super) fn complete(record: &mut Record, request: &LaunchRequest<'_>) {
    let LaunchRequest { machine, plan, facts, placement, .. } = request;
    record.unit.clone_from(&placement.unit);
    record.manager.clone_from(&machine.switches.service);
    if machine.contract == Contract::Nspawn {
        record.manager.get_or_insert_with(|| machine.contract.program().to_owned());
    }
    record.init = Some(match machine.command.payload {
        Payload::Boot { .. } => PayloadKind::Init(plan.init),
        Payload::Command { .. } | Payload::Hold => PayloadKind::Command,
    });
    record.machine_id = Some(facts.machine_id);
    record.cgroup = placement.cgroup.as_ref().map(|cgroup| cgroup.directory.clone());
    record.cgroup_is_ours = placement.cgroup.as_ref().is_some_and(|cgroup| cgroup.is_ours);
    record.capabilities = plan.capabilities;
    record.syscalls.socketcall = facts.socketcall;
    record.procfs_full = plan.procfs_full;
    if let Some(hosts) = &request.hosts {
        record.hosts = Some(hosts.file.clone());
        record.hostnames.clone_from(&hosts.own_names);
    }
}
