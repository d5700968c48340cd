//! set and apply: the limits of a machine that runs, changed while it runs.

use super::{block_on, running};
use crate::error::{Error, Result};
use crate::host::systemd::units::limits;
use crate::machine::{Machine, size};
use crate::paths::Paths;

/// A limit that is not what the definition says, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key in a definition.
    pub key: &'static str,
    /// What holds now.
    pub now: String,
    /// What the definition says.
    pub wanted: String,
}

/// Whether what differs is only told or also done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Told.
    DryRun,
    /// Done.
    Apply,
}

/// Makes the limits of a machine that runs those of its definition, and tells what was not so.
///
/// # Errors
/// It does not run, is in no unit, or systemd refuses.
pub fn apply(paths: &Paths, machine: &Machine, act: Act) -> Result<Vec<Difference>> {
    let record = running(paths, &machine.name)?;
    let unit = record.unit.ok_or_else(|| {
        Error::new(format!("machine '{}' runs in no unit of systemd", machine.name))
            .with_hint("limits are kept by systemd: start it as a unit")
    })?;
    let differ = block_on(limits::differences(&unit, &machine.resources))??;
    if act == Act::Apply && !differ.is_empty() {
        block_on(limits::set(&unit, &differ))??;
    }
    let words = |limit: limits::Limit| Difference {
        key: limit.key,
        now: format_value(limit.key, limit.now),
        wanted: format_value(limit.key, limit.wanted),
    };
    Ok(differ.into_iter().map(words).collect())
}

/// A limit as definitions have it.
fn format_value(key: &str, value: u64) -> String {
    match key {
        _ if value == limits::NONE => "none".into(),
        "resources.cpu-quota" => format!("{}%", value / 10_000),
        _ if key.contains("memory") => size::exact(value),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::format_value;

    #[test]
    fn limits_are_told_as_they_are_written() {
        assert_eq!(format_value("resources.memory-max", 512 << 20), "512M");
        assert_eq!(format_value("resources.memory-max", (1 << 20) + 1), "1048577");
        assert_eq!(format_value("resources.cpu-quota", 1_500_000), "150%");
        assert_eq!(format_value("resources.tasks-max", u64::MAX), "none");
        assert_eq!(format_value("resources.tasks-max", 64), "64");
    }
}
