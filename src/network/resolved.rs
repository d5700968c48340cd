//! systemd-resolved of the host: it asks no machine for names. Called by the supervisor inside one `block_on`, when a
//! link is up. What a machine would answer to LLMNR and multicast DNS would be the host's answer.

use crate::error::{Context, Error, Result};
use crate::host::systemd::bus;
use std::time::Duration;
use zbus::proxy;

/// The time that resolved has for an answer: a start does not depend on it.
const PATIENCE: Duration = Duration::from_secs(1);

#[proxy(
    interface = "org.freedesktop.resolve1.Manager",
    default_service = "org.freedesktop.resolve1",
    default_path = "/org/freedesktop/resolve1"
)]
trait Manager {
    #[zbus(no_autostart, name = "SetLinkLLMNR")]
    fn set_link_llmnr(&self, ifindex: i32, mode: &str) -> zbus::Result<()>;

    #[zbus(no_autostart, name = "SetLinkMulticastDNS")]
    fn set_link_multicast_dns(&self, ifindex: i32, mode: &str) -> zbus::Result<()>;
}

/// Switches LLMNR and multicast DNS off on interfaces of the host. A resolved that does not run has nothing to switch
/// off; where networkd manages an interface its file has the same settings.
pub async fn silence(interfaces: &[u32]) {
    for ifindex in interfaces {
        if let Err(error) = try_silence(*ifindex).await {
            log::debug!("cannot switch off LLMNR on interface {ifindex}: {error}, ignoring");
        }
    }
}

async fn try_silence(ifindex: u32) -> Result<()> {
    let index = i32::try_from(ifindex).map_err(|error| Error::new(error.to_string()))?;
    let connection = bus::connect(PATIENCE).await.context(|| "cannot reach resolved")?;
    let manager = ManagerProxy::new(&connection).await.map_err(bus::failure)?;
    manager.set_link_llmnr(index, "no").await.map_err(bus::failure)?;
    manager.set_link_multicast_dns(index, "no").await.map_err(bus::failure)
}
