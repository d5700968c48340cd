//! firewalld, where it rules the host: its table takes no rules of others, so the links of machines
//! are made members of a zone of its own kind, for as long as they are there. The zone is installed
//! with us: through it machines reach everybody but the host. Called by the supervisor; nothing is
//! kept for good.

use super::bus;
use crate::error::{Error, Result};
use zbus::proxy;

/// The zone in `/usr/lib/firewalld/zones`.
const ZONE: &str = "coracle";

#[proxy(
    interface = "org.fedoraproject.FirewallD1.zone",
    default_service = "org.fedoraproject.FirewallD1",
    default_path = "/org/fedoraproject/FirewallD1"
)]
trait Zones {
    #[zbus(no_autostart, name = "changeZoneOfInterface")]
    fn change_zone_of_interface(&self, zone: &str, interface: &str) -> zbus::Result<String>;
    #[zbus(no_autostart, name = "removeInterface")]
    fn remove_interface(&self, zone: &str, interface: &str) -> zbus::Result<String>;
}

/// Lets links pass, which need not be there yet. Those that pass already stay.
///
/// # Errors
/// firewalld does not answer, or refuses.
pub async fn let_pass(interfaces: &[&str]) -> Result<()> {
    let connection = bus::connect(bus::PATIENCE).await?;
    let zones = ZonesProxy::new(&connection).await.map_err(bus::failure)?;
    for interface in interfaces {
        if let Err(error) = zones.change_zone_of_interface(ZONE, interface).await
            && !says(&error, "ZONE_ALREADY_SET")
        {
            let is_unknown = says(&error, "INVALID_ZONE");
            let error = bus::failure(error).context(format!("firewalld does not let '{interface}' pass"));
            return Err(if is_unknown { unknown_zone(error) } else { error });
        }
    }
    Ok(())
}

/// Takes a link out of the zone. One that is in none is fine.
///
/// # Errors
/// firewalld does not answer, or refuses.
pub async fn forget(interface: &str) -> Result<()> {
    let connection = bus::connect(bus::PATIENCE).await?;
    let zones = ZonesProxy::new(&connection).await.map_err(bus::failure)?;
    match zones.remove_interface(ZONE, interface).await {
        Err(error)
            if !["UNKNOWN_INTERFACE", "INVALID_ZONE", "ZONE_CONFLICT", "NOT_ENABLED"]
                .iter()
                .any(|fine| says(&error, fine)) =>
        {
            Err(bus::failure(error).context(format!("firewalld does not forget '{interface}'")))
        }
        _ => Ok(()),
    }
}

/// Whether an error has firewalld's word for it in front of its text.
fn says(error: &zbus::Error, word: &str) -> bool {
    matches!(error, zbus::Error::MethodError(_, Some(text), _) if text.starts_with(word))
}

fn unknown_zone(error: Error) -> Error {
    error.hint("have firewalld read its zones: firewall-cmd --reload")
}
