//! Reads and changes the limits of a running unit.

use super::{CALL_TIMEOUT, all_properties, bus, manager};
use crate::error::Result;
use crate::machine::resources::Resources;
use crate::paths::running_systemd;
use zbus::Variant;

/// A limit: its name, the current value of the unit, and the wanted one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitLimit {
    /// The key of the definition.
    pub(crate) key: &'static str,
    /// The property of systemd.
    pub(crate) property: &'static str,
    /// The current value.
    pub(crate) now: u64,
    /// The wanted value.
    pub(crate) wanted: u64,
}

/// The limits that systemd changes while a unit runs: the key of the definition, and the property.
const LIMITS: [(&str, &str); 7] = [
    ("resources.memory-max", "MemoryMax"),
    ("resources.memory-high", "MemoryHigh"),
    ("resources.memory-swap-max", "MemorySwapMax"),
    ("resources.cpu-quota", "CPUQuotaPerSecUSec"),
    ("resources.cpu-weight", "CPUWeight"),
    (TASKS_KEY, "TasksMax"),
    ("resources.io-weight", "IOWeight"),
];
const TASKS_KEY: &str = "resources.tasks-max";

/// Returns whether a key of a definition is such a limit.
pub(crate) fn is_live(key: &str) -> bool {
    LIMITS.iter().any(|limit| limit.0 == key)
}

/// The default of a machine's unit (`units/coracle@.service`).
pub(crate) const TASKS: u64 = 16384;
/// systemd's value for "unlimited".
pub(crate) const NONE: u64 = u64::MAX;

/// Returns the limits of a unit that differ from the wanted ones.
///
/// # Errors
/// systemd does not reply.
pub(crate) async fn differences(unit: &str, wanted: &Resources) -> Result<Vec<UnitLimit>> {
    let connection = bus::connect(CALL_TIMEOUT).await?;
    let manager = manager(&connection).await?;
    let reading = |error| bus::failure(error).context(format!("cannot read the limits of unit '{unit}'"));
    let path = manager.load_unit(unit).await.map_err(reading)?;
    let now = all_properties(&connection, &path).await.map_err(reading)?;
    // A percentage of one processor as microseconds per second.
    let quota = wanted.cpu_quota.map(|percent| u64::from(percent) * 10_000);
    let wanted = [
        wanted.memory_max,
        wanted.memory_high,
        wanted.memory_swap_max,
        quota,
        wanted.cpu_weight,
        wanted.tasks_max,
        wanted.io_weight,
    ];
    let limit = |((key, property), wanted): ((&'static str, &'static str), Option<u64>)| {
        let now = now.get(property).and_then(|value| value.downcast_ref::<u64>().ok()).unwrap_or(NONE);
        let default = if key == TASKS_KEY { TASKS } else { NONE };
        UnitLimit { key, property, now, wanted: wanted.unwrap_or(default) }
    };
    Ok(LIMITS.into_iter().zip(wanted).map(limit).filter(|limit| limit.now != limit.wanted).collect())
}

/// Sets limits of a unit, at once. Limits are persistent in definitions only, so the drop-ins created by
/// systemd for a service are deleted: they would override a later change of the definition.
///
/// # Errors
/// systemd refuses.
pub(crate) async fn set(unit: &str, limits: &[UnitLimit]) -> Result<()> {
    let connection = bus::connect(CALL_TIMEOUT).await?;
    let manager = manager(&connection).await?;
    let refused = |error| bus::failure(error).context(format!("cannot set the limits of unit '{unit}'"));
    let properties: Vec<(&str, Variant<'_>)> =
        limits.iter().map(|limit| (limit.property, Variant::from(limit.wanted))).collect();
    manager.set_unit_properties(unit, true, &properties).await.map_err(refused)?;
    if crate::machine::unit_name::is_service(unit) {
        let directory = running_systemd("system.control").join(format!("{unit}.d"));
        for limit in limits {
            let name = limit.property.strip_suffix("PerSecUSec").unwrap_or(limit.property);
            let _ = std::fs::remove_file(directory.join(format!("50-{name}.conf")));
        }
        let _ = std::fs::remove_dir(&directory);
        manager.reload().await.map_err(refused)?;
    }
    Ok(())
}
