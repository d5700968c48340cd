//! The data of a machine from which the firewall creates its elements: interface, addresses, ports and
//! policy. The state record contains it. Called by the supervisor and by the other files of the firewall.

use super::netlink::element::padded;
use super::traffic_policy::TrafficPolicy;
use crate::machine::mac_addr::MacAddr;
use crate::machine::network::{Port, Zone};
use crate::machine::static_address::StaticAddress;
use crate::network::addresses::{IPV4_LENGTH, IPV6_LENGTH, LinkPlan, zone};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A machine with a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The input interface of its packets on the host: the host's end of its link, or the bridge of its zone.
    interface: String,
    /// The link-layer address of the machine's end of the link.
    mac: MacAddr,
    /// Its IPv4 address.
    ipv4: Ipv4Addr,
    /// The length of its IPv4 prefix; 0 in records of older programs.
    #[serde(default)]
    ipv4_length: u8,
    /// Its IPv6 address. Outside of zones it has the whole prefix of 64 bits.
    ipv6: Ipv6Addr,
    /// Its published ports.
    #[serde(default)]
    ports: Vec<Port>,
    /// The ports at which systemd listens while it is stopped (`network.on-demand`).
    #[serde(default)]
    on_demand: Vec<Port>,
    /// Its traffic policy.
    #[serde(default)]
    policy: TrafficPolicy,
    /// Its port of a zone. `None` if it is in no zone.
    #[serde(default)]
    zone: Option<ZonePort>,
    /// The host's address on its link.
    #[serde(default)]
    gateway: Option<Ipv4Addr>,
    /// The loopback address of the host's resolver, to which DNS queries to the gateway are redirected.
    #[serde(default)]
    resolver: Option<Ipv4Addr>,
    /// Whether its ports are not published at `::1`: replies would not arrive.
    #[serde(default)]
    lacks_loopback6: bool,
}

/// A machine's port of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ZonePort {
    zone: Zone,
    /// The host's end of the machine's link, a port of the zone's bridge.
    pub(super) port: String,
    /// The link-layer address of the bridge.
    #[serde(default)]
    pub(super) bridge_mac: MacAddr,
}

impl Member {
    /// Creates the data of a machine with this link.
    pub fn new(plan: &LinkPlan, ports: &[Port]) -> Self {
        Self {
            interface: plan.router_interface(),
            mac: plan.guest_mac,
            ipv4: plan.ipv4.guest,
            ipv4_length: plan.ipv4_length,
            ipv6: plan.ipv6.guest,
            ports: ports.to_vec(),
            on_demand: Vec::new(),
            policy: TrafficPolicy::default(),
            gateway: Some(plan.ipv4.host),
            resolver: None,
            lacks_loopback6: false,
            zone: plan.zone.clone().map(|zone| ZonePort {
                zone,
                port: plan.host_interface.clone(),
                bridge_mac: plan.router_mac,
            }),
        }
    }

    /// The machine with this policy.
    #[must_use]
    pub fn with_policy(self, policy: TrafficPolicy) -> Self {
        Self { policy, ..self }
    }

    /// The machine without a limit of connections.
    #[must_use]
    pub(crate) fn without_connection_limit(mut self) -> Self {
        self.policy.connections = None;
        self
    }

    /// The machine with these published ports.
    #[must_use]
    pub(crate) fn with_ports(self, ports: Vec<Port>) -> Self {
        Self { ports, ..self }
    }

    /// The machine that these ports start.
    #[must_use]
    pub(crate) fn with_on_demand(self, on_demand: Vec<Port>) -> Self {
        Self { on_demand, ..self }
    }

    /// The machine with this resolver of the host, or without.
    #[must_use]
    pub(crate) fn with_resolver(self, resolver: Option<Ipv4Addr>) -> Self {
        Self { resolver, ..self }
    }

    /// The machine on a host that filters bridged packets, or on another one: there, replies of a zone to `::1` are
    /// dropped.
    #[must_use]
    pub(crate) fn with_filtered_bridges(mut self, are_filtered: bool) -> Self {
        self.lacks_loopback6 = are_filtered && self.zone.is_some();
        self
    }

    /// The machine with the ports, the resolver and the policy of both, for the deletion of both.
    #[must_use]
    pub(crate) fn merged_with(mut self, other: &Self) -> Self {
        let new: Vec<Port> = other.ports.iter().filter(|port| !self.ports.contains(port)).copied().collect();
        self.ports.extend(new);
        self.on_demand.extend(&other.on_demand);
        self.resolver = self.resolver.or(other.resolver);
        self.policy = self.policy.merged_with(&other.policy);
        self
    }

    /// The input interface of its packets on the host.
    pub(crate) fn interface(&self) -> &str {
        &self.interface
    }

    /// The host's end of its link: the interface, or the port of its zone.
    pub(crate) fn host_end(&self) -> &str {
        self.zone.as_ref().map_or(&self.interface, |zone| &zone.port)
    }

    /// Its addresses.
    pub(crate) fn addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        (self.ipv4, self.ipv6)
    }

    /// The length of its IPv4 prefix.
    pub(crate) fn ipv4_length(&self) -> u8 {
        match (self.ipv4_length, &self.zone) {
            (0, Some(_)) => zone::LENGTH,
            (0, None) => IPV4_LENGTH,
            (length, _) => length,
        }
    }

    /// Its addresses with the lengths of their prefixes.
    pub(crate) fn networks(&self) -> [StaticAddress; 2] {
        let (ipv4, ipv6) = (self.ipv4.into(), self.ipv6.into());
        [(ipv4, self.ipv4_length()), (ipv6, IPV6_LENGTH)]
            .map(|(address, length)| StaticAddress { address, length })
    }

    /// Its IPv6 prefix of 64 bits.
    pub(crate) fn ipv6_prefix(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.ipv6.to_bits() >> 64 << 64)
    }

    /// Its link-layer address.
    pub(super) fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The interface as a key.
    pub(super) fn name_key(&self) -> Vec<u8> {
        padded(&self.interface)
    }

    /// The link-layer address as a field of a key: padded to registers.
    pub(super) fn mac_key(&self) -> Vec<u8> {
        [&self.mac.octets()[..], &[0, 0]].concat()
    }

    /// The host's address on its link.
    pub(crate) fn gateway(&self) -> Option<Ipv4Addr> {
        self.gateway
    }

    /// Its published ports.
    pub(crate) fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The ports at which systemd listens while it is stopped.
    pub(super) fn on_demand(&self) -> &[Port] {
        &self.on_demand
    }

    /// Its traffic policy.
    pub fn policy(&self) -> &TrafficPolicy {
        &self.policy
    }

    /// Whether its ports are not published at `::1`.
    pub(super) fn lacks_loopback6(&self) -> bool {
        self.lacks_loopback6
    }

    /// The resolver of the host that it reaches at its gateway.
    pub(crate) fn resolver(&self) -> Option<Ipv4Addr> {
        self.resolver
    }

    /// Its zone.
    pub(crate) fn zone(&self) -> Option<&Zone> {
        self.zone.as_ref().map(|port| &port.zone)
    }

    /// Its port of a zone.
    pub(super) fn zone_port(&self) -> Option<&ZonePort> {
        self.zone.as_ref()
    }
}
