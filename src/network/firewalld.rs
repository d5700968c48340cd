//! firewalld, whose table takes no rules of other programs: the interfaces of machines are in its zone 'coracle', each
//! by its own name. Called by the supervisor, inside one `block_on`, when a machine comes and when it has gone. An
//! interface of another program with such a name is not touched.

use super::firewall::coexist;
use crate::error::Result;
use crate::host::systemd::bus;
use std::time::Duration;
use zbus::proxy;

/// The time that firewalld has for an answer: it writes its rules meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// The installed zone.
const ZONE: &str = "coracle";

#[proxy(
    interface = "org.fedoraproject.FirewallD1.zone",
    default_service = "org.fedoraproject.FirewallD1",
    default_path = "/org/fedoraproject/FirewallD1"
)]
trait Zones {
    #[zbus(no_autostart, name = "addInterface")]
    fn add_interface(&self, zone: &str, interface: &str) -> zbus::Result<String>;

    #[zbus(no_autostart, name = "removeInterface")]
    fn remove_interface(&self, zone: &str, interface: &str) -> zbus::Result<String>;
}

/// Adds interfaces to the zone. An interface that the administrator has in another zone stays there.
pub async fn bind(interfaces: &[&str]) {
    for interface in interfaces {
        let Err(error) = change(interface, Change::Add).await else { continue };
        let text = error.to_string();
        if text.contains("ZONE_CONFLICT") {
            log::info!("'{interface}' is in another zone of firewalld than '{ZONE}' and stays there");
        } else if text.contains("INVALID_ZONE") {
            log::warn!(
                "firewalld has not read its zone '{ZONE}' and lets no machine pass (firewall-cmd --reload)"
            );
        } else if !["ZONE_ALREADY_SET", "ALREADY_ENABLED"].iter().any(|word| text.contains(word)) {
            log::warn!("cannot add '{interface}' to the zone '{ZONE}' of firewalld: {error}, ignoring");
        }
    }
}

/// Removes an interface from the zone. None is fine.
pub async fn unbind(interface: &str) {
    if let Err(error) = change(interface, Change::Remove).await {
        log::debug!("cannot remove '{interface}' from the zone '{ZONE}' of firewalld: {error}, ignoring");
    }
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Add,
    Remove,
}

async fn change(interface: &str, change: Change) -> Result<()> {
    if !coexist::has_firewalld() {
        return Ok(());
    }
    let connection = bus::connect(PATIENCE).await?;
    let zones = ZonesProxy::new(&connection).await.map_err(bus::failure)?;
    let changed = match change {
        Change::Add => zones.add_interface(ZONE, interface).await,
        Change::Remove => zones.remove_interface(ZONE, interface).await,
    };
    changed.map(drop).map_err(bus::failure)
}
