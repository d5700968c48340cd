//! firewalld, which does not accept rules of other programs in its table: each interface of machines is in
//! its zone `coracle`, by its own name. Called by the supervisor, inside one `block_on`, when it adds or
//! removes a machine. Other interfaces with a similar name stay outside of the zone.

use super::firewall::{Nfnetlink, coexist};
use crate::error::Result;
use crate::host::systemd::bus;
use std::time::Duration;
use zbus::proxy;

/// The timeout of a request: firewalld writes its rules before it replies.
const PATIENCE: Duration = Duration::from_secs(5);
/// The timeout of a request during a reload: firewalld replies after it. With large sets it takes many
/// seconds.
const RELOAD: Duration = Duration::from_secs(120);

/// The bus name of firewalld.
const SERVICE: &str = "org.fedoraproject.FirewallD1";

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

/// Adds interfaces to the zone. An interface that the administrator has added to another zone stays there.
pub(crate) async fn add(interfaces: &[&str]) {
    if !interfaces.is_empty() && coexist::has_firewalld(&Nfnetlink::open()) {
        add_within(interfaces, PATIENCE).await;
    }
}

/// Adds interfaces to the zone after a reload, which removes them, or during it: the table of firewalld is
/// missing then. A starting firewalld is not on the bus yet; `coracle-network-reload@firewalld.service` adds
/// the interfaces after its start.
pub(crate) async fn add_again(interfaces: &[&str]) {
    if !interfaces.is_empty() && bus::has_owner(SERVICE).await {
        add_within(interfaces, RELOAD).await;
    }
}

/// Implements [`add`] with this timeout of a request.
async fn add_within(interfaces: &[&str], patience: Duration) {
    let zones = match connect(patience).await {
        Ok(zones) => zones,
        Err(error) => {
            let names = interfaces.join("', '");
            log::warn!("cannot add '{names}' to the zone '{ZONE}' of firewalld: {error}, ignoring");
            return;
        }
    };
    for interface in interfaces {
        let added = zones.add_interface(ZONE, interface).await.map_err(bus::failure);
        let Err(error) = added else { continue };
        let text = error.to_string();
        if text.contains("ZONE_CONFLICT") {
            log::info!("'{interface}' is in another zone of firewalld than '{ZONE}' and stays there");
        } else if text.contains("INVALID_ZONE") {
            log::warn!(
                "firewalld has not loaded its zone '{ZONE}' and drops packets of machines (run firewall-cmd --reload)"
            );
        } else if !["ZONE_ALREADY_SET", "ALREADY_ENABLED"].iter().any(|word| text.contains(word)) {
            log::warn!("cannot add '{interface}' to the zone '{ZONE}' of firewalld: {error}, ignoring");
        }
    }
}

/// Removes an interface from the zone. A missing interface is not an error.
pub(crate) async fn remove(socket: &Nfnetlink, interface: &str) {
    if !coexist::has_firewalld(socket) {
        return;
    }
    let removed = async {
        connect(PATIENCE).await?.remove_interface(ZONE, interface).await.map(drop).map_err(bus::failure)
    };
    if let Err(error) = removed.await {
        log::debug!("cannot remove '{interface}' from the zone '{ZONE}' of firewalld: {error}, ignoring");
    }
}

async fn connect(patience: Duration) -> Result<ZonesProxy<'static>> {
    let connection = bus::connect(patience).await?;
    ZonesProxy::new(&connection).await.map_err(bus::failure)
}
