//! The devices that a running unit may open (`DeviceAllow=`), until it stops.

use super::{CALL_TIMEOUT, all_properties, bus, manager};
use crate::error::Result;
use crate::paths::running_systemd;
use zbus::Variant;

/// The property, and the drop-in that systemd writes for it.
const PROPERTY: &str = "DeviceAllow";

/// Permits a device, by a path that systemd reads the number from, for example `/dev/block/7:3`.
///
/// # Errors
/// systemd refuses.
pub(crate) async fn allow(unit: &str, device: &str, access: &str) -> Result<()> {
    let connection = bus::connect(CALL_TIMEOUT).await?;
    let manager = manager(&connection).await?;
    let refused = |error| bus::failure(error).context(format!("cannot permit '{device}' to '{unit}'"));
    let properties = [(PROPERTY, Variant::from(vec![(device, access)]))];
    manager.set_unit_properties(unit, true, &properties).await.map_err(refused)
}

/// Forbids a device that was permitted before.
///
/// # Errors
/// systemd does not reply, or refuses.
pub(crate) async fn deny(unit: &str, device: &str) -> Result<()> {
    let connection = bus::connect(CALL_TIMEOUT).await?;
    let manager = manager(&connection).await?;
    let refused = |error| bus::failure(error).context(format!("cannot forbid '{device}' to '{unit}'"));
    let path = manager.load_unit(unit).await.map_err(refused)?;
    let now = all_properties(&connection, &path).await.map_err(refused)?;
    let allowed = now.get(PROPERTY).and_then(|value| Vec::<(String, String)>::try_from(value.clone()).ok());
    let rest: Vec<(String, String)> =
        allowed.unwrap_or_default().into_iter().filter(|(known, _)| known != device).collect();
    // An empty list removes all of them.
    let properties =
        [(PROPERTY, Variant::from(Vec::<(String, String)>::new())), (PROPERTY, Variant::from(rest))];
    manager.set_unit_properties(unit, true, &properties).await.map_err(refused)
}

/// Removes what systemd has stored for a unit: the next start has the devices of its files only.
///
/// # Errors
/// systemd does not reply.
pub(crate) async fn forget(unit: &str) -> Result<()> {
    let directory = running_systemd("system.control").join(format!("{unit}.d"));
    let _ = std::fs::remove_file(directory.join(format!("50-{PROPERTY}.conf")));
    let _ = std::fs::remove_dir(&directory);
    super::reload().await
}
