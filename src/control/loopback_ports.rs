//! Ports of machines in a zone at the loopback address `::1` of the host: they do not answer if the host filters
//! bridged packets. Called by `start`, `set`, `apply` and `doctor`.

use crate::machine::network::{Network, Port, Zone};
use crate::network::sysctl;
use std::net::{IpAddr, Ipv6Addr};

/// The cure.
pub(super) const HINT: &str =
    "connect to 127.0.0.1, or set the sysctl net.bridge.bridge-nf-call-ip6tables=0 where no rule needs it";

/// Describes why ports of a machine do not answer at `::1`. `None` if they do, or if it has none there.
pub(super) fn unanswered<'a>(
    zone: Option<&Zone>,
    ports: impl IntoIterator<Item = &'a Port>,
) -> Option<String> {
    let is_there =
        |port: &&Port| port.address.is_none_or(|address| address == IpAddr::V6(Ipv6Addr::LOCALHOST));
    let port = zone.and_then(|_| ports.into_iter().find(is_there))?;
    sysctl::filters_bridges().then(|| {
        format!(
            "port {} does not answer at ::1: the host filters bridged packets \
             (net.bridge.bridge-nf-call-ip6tables)",
            port.host
        )
    })
}

/// Warns about ports of a definition.
pub(super) fn warn(network: &Network) {
    if let Some(message) = unanswered(network.zone.as_ref(), &network.ports) {
        log::warn!("{message}; {HINT}");
    }
}
