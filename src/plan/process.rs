//! The steps before the mount tree, for the process of PID 1 and its namespaces. Called by `plan`.

use super::step::{BuildStep, InitStep};
use super::{Facts, rlimits};
use crate::machine::Machine;
use crate::machine::security::Sysctl;

/// Adds the steps before the mount tree: for the process of PID 1 and its namespaces.
pub(super) fn add_steps(steps: &mut Vec<BuildStep>, machine: &Machine, facts: &Facts) {
    if facts.user_namespace {
        // First: sysfs, mqueue and cgroup2 show the namespaces of the process that mounts them.
        steps.push(BuildStep::Join);
    }
    // By the builder, if there is one: in its user namespace PID 1 cannot raise a hard limit.
    steps.push(BuildStep::Limits);
    steps.extend(limits(machine).into_iter().filter(|_| facts.user_namespace));
    // While procfs is the host's. A network namespace named by the definition keeps its own settings.
    if machine.network.mode.makes_namespace() {
        steps.push(ping_groups(machine, facts));
        if !machine.network.has_link() {
            steps.push(BuildStep::Loopback);
        }
    }
}

/// Returns the step that sets the limits of the definition. They may be too low to create a machine.
pub(super) fn limits(machine: &Machine) -> Option<BuildStep> {
    let limits = &machine.resources.rlimits;
    (!limits.is_empty()).then(|| BuildStep::Rlimits(rlimits::of(&machine.resources)))
}

/// The parameters of the UTS namespace, which the builder does not join. They have steps of their own.
const HOSTNAME_PARAMETER: &str = "kernel.hostname";
const DOMAINNAME_PARAMETER: &str = "kernel.domainname";

/// Returns the steps for parameters of the kernel.
pub(super) fn sysctls(machine: &Machine) -> impl Iterator<Item = BuildStep> {
    let is_of_uts = |key: &str| [HOSTNAME_PARAMETER, DOMAINNAME_PARAMETER].contains(&key);
    let others = machine.security.sysctls.iter().filter(move |sysctl| !is_of_uts(&sysctl.key));
    others.map(|Sysctl { key, value }| BuildStep::Sysctl { key: key.clone(), value: value.clone() })
}

/// Returns the step that sets the domain name.
pub(super) fn domain_name(machine: &Machine) -> Option<InitStep> {
    let domain = machine.security.sysctls.iter().find(|sysctl| sysctl.key == DOMAINNAME_PARAMETER)?;
    Some(InitStep::Domainname(domain.value.clone()))
}

/// Returns the step that allows all groups of the machine to ping, as systemd does on hosts
/// (`50-default.conf` of sysctl.d(5)). A new network namespace allows none.
fn ping_groups(machine: &Machine, facts: &Facts) -> BuildStep {
    /// The highest id that the kernel accepts there.
    const HIGHEST: u32 = i32::MAX.cast_unsigned();
    let range = facts.id_base.filter(|_| facts.user_namespace).map(|base| (base, machine.id_count()));
    let (first, last) =
        range.map_or((0, HIGHEST), |(base, count)| (base, base.saturating_add(count - 1).min(HIGHEST)));
    BuildStep::PingGroups { first, last }
}
