//! The host's systemd-resolved: it must not send name queries to machines, because answers of a machine to
//! LLMNR and multicast DNS would become answers of the host. Called by the supervisor inside one `block_on`
//! when a link is up.

use crate::error::{Context, Error, Result};
use crate::host::systemd::bus;
use crate::host::systemd::session::BusConnection;
use futures_util::future;
use std::time::Duration;
use zbus::proxy;

/// The timeout for a reply of resolved: a start does not depend on it.
const PATIENCE: Duration = Duration::from_secs(1);

#[proxy(
    interface = "org.freedesktop.resolve1.Manager",
    default_service = "org.freedesktop.resolve1",
    default_path = "/org/freedesktop/resolve1"
)]
trait ResolvedManager {
    #[zbus(no_autostart, name = "SetLinkLLMNR")]
    fn set_link_llmnr(&self, ifindex: i32, mode: &str) -> zbus::Result<()>;

    #[zbus(no_autostart, name = "SetLinkMulticastDNS")]
    fn set_link_multicast_dns(&self, ifindex: i32, mode: &str) -> zbus::Result<()>;
}

/// Disables LLMNR and multicast DNS on an interface of the host. Does nothing unless resolved runs; if networkd
/// manages the interface, its configuration has the same settings.
pub(crate) async fn disable_multicast_names(connection: &BusConnection, ifindex: u32) {
    let disabled = match tokio::time::timeout(PATIENCE, try_disable(connection, ifindex)).await {
        Ok(disabled) => disabled,
        Err(_) => Err(Error::new(format!("resolved did not reply within {} s", PATIENCE.as_secs()))),
    };
    if let Err(error) = disabled {
        log::debug!("cannot disable LLMNR on interface {ifindex}: {error}, ignoring");
    }
}

/// Settings of an interface that resolved has not confirmed yet.
#[derive(Debug)]
pub(crate) struct PendingSettings(tokio::task::JoinHandle<()>);

impl PendingSettings {
    /// Begins [`disable_multicast_names`] for an interface. The event loop continues it whenever it runs.
    pub(crate) fn disable_multicast_names(connection: BusConnection, ifindex: u32) -> Self {
        Self(tokio::spawn(async move { disable_multicast_names(&connection, ifindex).await }))
    }

    /// Waits for the reply of resolved.
    pub(crate) async fn confirmed(self) {
        if let Err(error) = self.0.await {
            log::debug!("cannot disable LLMNR on an interface: {error}, ignoring");
        }
    }
}

async fn try_disable(connection: &BusConnection, ifindex: u32) -> Result<()> {
    let index = i32::try_from(ifindex).map_err(|error| Error::new(error.to_string()))?;
    let connection = connection.get().await.context(|| "cannot connect to resolved")?;
    let manager = ResolvedManagerProxy::new(connection).await.map_err(bus::failure)?;
    // Both requests are sent before the first reply.
    let both = future::join(manager.set_link_llmnr(index, "no"), manager.set_link_multicast_dns(index, "no"));
    let (llmnr, multicast_dns) = both.await;
    llmnr.and(multicast_dns).map_err(bus::failure)
}
