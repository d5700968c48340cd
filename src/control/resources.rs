//! `set` and `apply`: changes the resource limits of a running machine.

use super::{block_on, running};
use crate::error::{Error, Result};
use crate::host::cgroup;
use crate::host::systemd::units::resources;
use crate::machine::resources::Resources;
use crate::machine::{Machine, size};
use crate::paths::Paths;

/// A limit that differs from the definition, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangedLimit {
    /// The key in a definition.
    pub(crate) key: &'static str,
    /// The value in effect.
    pub(crate) now: String,
    /// The value of the definition.
    pub(crate) wanted: String,
}

/// The controller of each limit (cgroups(7)).
const CONTROLLERS: [(&str, &str); 7] = [
    ("resources.memory-max", "memory"),
    ("resources.memory-high", "memory"),
    ("resources.memory-swap-max", "memory"),
    ("resources.cpu-quota", "cpu"),
    ("resources.cpu-weight", "cpu"),
    ("resources.tasks-max", "pids"),
    ("resources.io-weight", "io"),
];

/// The hint for missing controllers.
pub(super) const ADD_CONTROLLERS: &str = "boot with systemd.unified_cgroup_hierarchy=1 and without cgroup_disable=: the controllers may be in use by version 1";

/// Returns the limits of a definition that are not enforced, because the host lacks their controller, each
/// with a message.
pub(super) fn unenforced(resources: &Resources) -> Vec<(&'static str, String)> {
    let is_set = [
        resources.memory_max.is_some(),
        resources.memory_high.is_some(),
        resources.memory_swap_max.is_some(),
        resources.cpu_quota.is_some(),
        resources.cpu_weight.is_some(),
        resources.tasks_max.is_some(),
        resources.io_weight.is_some(),
    ];
    if !is_set.contains(&true) {
        return Vec::new();
    }
    let controllers = cgroup::controllers();
    let missing = CONTROLLERS.into_iter().zip(is_set).filter(|((_, wanted), is_set)| {
        *is_set && !controllers.split_whitespace().any(|controller| controller == *wanted)
    });
    let text = |(key, controller)| {
        format!("{key} is not enforced: the host lacks the cgroup controller '{controller}'")
    };
    missing.map(|(limit, _)| (limit.0, text(limit))).collect()
}

/// Whether differences are applied or only returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Only returned.
    DryRun,
    /// Applied.
    Apply,
}

/// Applies the limits of a definition to its running machine, and returns the differences.
///
/// # Errors
/// The machine is not running, is not a systemd unit, or systemd refuses.
pub(crate) fn apply(paths: &Paths, machine: &Machine, act: Act) -> Result<Vec<ChangedLimit>> {
    let record = running(paths, &machine.name)?;
    let unit = record.unit.ok_or_else(|| {
        Error::new(format!("machine '{}' is not running as a systemd unit", machine.name))
            .with_hint("limits are applied by systemd: start the machine as a unit")
    })?;
    let differ = block_on(resources::differences(&unit, &machine.resources))??;
    if act == Act::Apply && !differ.is_empty() {
        block_on(resources::set(&unit, &differ))??;
    }
    let words = |limit: resources::UnitLimit| ChangedLimit {
        key: limit.key,
        now: format_value(limit.key, limit.now),
        wanted: format_value(limit.key, limit.wanted),
    };
    Ok(differ.into_iter().map(words).collect())
}

/// Formats a limit as in a definition.
fn format_value(key: &str, value: u64) -> String {
    match key {
        _ if value == resources::NONE => "none".into(),
        "resources.cpu-quota" => format!("{}%", value / 10_000),
        _ if key.contains("memory") => size::exact(value),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_controller() {
        assert!(CONTROLLERS.iter().all(|(key, _)| resources::is_live(key)));
    }

    #[test]
    fn limits_are_formatted_as_in_definitions() {
        assert_eq!(format_value("resources.memory-max", 512 << 20), "512M");
        assert_eq!(format_value("resources.memory-max", (1 << 20) + 1), "1048577");
        assert_eq!(format_value("resources.cpu-quota", 1_500_000), "150%");
        assert_eq!(format_value("resources.tasks-max", u64::MAX), "none");
        assert_eq!(format_value("resources.tasks-max", 64), "64");
    }
}
