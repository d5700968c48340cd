//! A machine's part of the table `inet coracle`: the elements of sets and maps that come and go with
//! it, and those that change while it runs. Called by the file above, which sends them.

pub use super::bridge::Reach;
use super::element::{Element, padded, push_all};
use super::extras::Extra;
use super::message::{BRIDGE, Batch, Existing, INET, Kind};
use super::{bridge, connections, inet, policy, sets};
use crate::machine::egress;
use crate::machine::egress::{Destination, Range};
use crate::machine::network::{Network, Port, Protocol, Zone};
use crate::network::addresses::zone::is_shared;
use crate::network::addresses::{IPV6_LENGTH, Plan, zone};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first of the addresses of many in IPv6.
const MULTICAST: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0));

/// What its elements are made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The interface of the host by which its packets come: the host's end of its link, or the bridge
    /// of its zone.
    interface: String,
    /// The link-layer address of its own end.
    mac: [u8; 6],
    /// Its IPv4 address.
    ipv4: Ipv4Addr,
    /// Its IPv6 address; all of its prefix of 64 bits is its.
    ipv6: Ipv6Addr,
    /// Ports of the host that lead to it.
    #[serde(default)]
    ports: Vec<Port>,
    /// What it may send and get.
    #[serde(default)]
    bounds: Bounds,
    /// Its place in a zone.
    #[serde(default)]
    zone: Option<Place>,
    /// The host's address on its link.
    #[serde(default)]
    gateway: Option<Ipv4Addr>,
    /// The loopback address of the host's resolver that answers at the gateway's.
    #[serde(default)]
    resolver: Option<Ipv4Addr>,
}

/// A machine's place in a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    zone: Zone,
    /// The host's end of its link, a port of the zone's bridge.
    port: String,
    /// The link-layer address of the bridge.
    #[serde(default)]
    router: [u8; 6],
}

/// Who else needs a part of the tables, seen from one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Others {
    /// Any machine.
    pub any: bool,
    /// One in a zone.
    pub zoned: bool,
    /// One in the same zone.
    pub same_zone: bool,
}

/// What a machine may send and get.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Bounds {
    /// Whom it may begin to speak to; anybody where there is nothing.
    pub egress: Option<Vec<Range>>,
    /// Whether all of its zone is among them.
    pub reach: Reach,
    /// The most that comes to it, bits in a second.
    pub rate_in: Option<u64>,
    /// The most that it sends.
    pub rate_out: Option<u64>,
    /// The most connections that it begins.
    pub connections: Option<u32>,
}

impl Bounds {
    /// Those of a definition.
    pub fn of(network: &Network) -> Self {
        Self {
            egress: egress::allowed(&network.egress),
            reach: if network.egress.contains(&Destination::Zone) { Reach::Zone } else { Reach::Said },
            rate_in: network.rate_in,
            rate_out: network.rate_out,
            connections: connections::share(network.connections_max),
        }
    }
}

/// Packets of a machine that went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// With an address that is not its own.
    pub forged: u64,
    /// To whom it may not speak.
    pub refused: u64,
}

impl Member {
    /// The part of the machine of this link.
    pub fn new(plan: &Plan, ports: &[Port]) -> Self {
        Self {
            interface: plan.router_interface(),
            mac: plan.guest_mac,
            ipv4: plan.ipv4.guest,
            ipv6: plan.ipv6.guest,
            ports: ports.to_vec(),
            bounds: Bounds::default(),
            gateway: Some(plan.ipv4.host),
            resolver: None,
            zone: plan.zone.clone().map(|zone| Place {
                zone,
                port: plan.host_interface.clone(),
                router: plan.router_mac,
            }),
        }
    }

    /// Its zone.
    pub fn zone(&self) -> Option<&Zone> {
        self.zone.as_ref().map(|place| &place.zone)
    }

    /// Whether it and another can be at once: in one zone they share the network and have an address each.
    pub fn fits_beside(&self, other: &Self) -> bool {
        let shares = is_shared(self.ipv4, other.ipv4);
        if self.zone() == other.zone() { shares && self.ipv4 != other.ipv4 } else { !shares }
    }

    /// Its addresses.
    pub fn addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        (self.ipv4, self.ipv6)
    }

    /// The same with bounds.
    #[must_use]
    pub fn within(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// The same with no bound of its connections.
    #[must_use]
    pub fn without_connections(mut self) -> Self {
        self.bounds.connections = None;
        self
    }

    /// The same with other ports.
    #[must_use]
    pub fn forwarding(self, ports: Vec<Port>) -> Self {
        Self { ports, ..self }
    }

    /// The same with a resolver of the host at a loopback address, or without.
    #[must_use]
    pub fn resolving(self, resolver: Option<Ipv4Addr>) -> Self {
        Self { resolver, ..self }
    }

    /// The resolver of the host that it reaches at its gateway.
    pub fn resolver(&self) -> Option<Ipv4Addr> {
        self.resolver
    }

    /// The same with everything that another one of the same link has, for taking both out.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        let new: Vec<Port> = other.ports.iter().filter(|port| !self.ports.contains(port)).copied().collect();
        self.ports.extend(new);
        self.resolver = self.resolver.or(other.resolver);
        let Bounds { egress, reach, rate_in, rate_out, connections } = other.bounds.clone();
        if reach == Reach::Zone {
            self.bounds.reach = reach;
        }
        self.bounds.egress = match (self.bounds.egress, egress) {
            (Some(mut ranges), Some(more)) => {
                ranges.extend(more);
                ranges.sort();
                ranges.dedup();
                Some(ranges)
            }
            (one, other) => one.or(other),
        };
        self.bounds.rate_in = self.bounds.rate_in.or(rate_in);
        self.bounds.rate_out = self.bounds.rate_out.or(rate_out);
        self.bounds.connections = self.bounds.connections.or(connections);
        self
    }

    /// The ports that lead to it.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// What it may send and get.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// The host's end of the machine's own link: its interface, or its port of the zone's bridge.
    pub fn host_end(&self) -> &str {
        self.zone.as_ref().map_or(&self.interface, |zone| &zone.port)
    }

    /// The interface of the host by which its packets come.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The name of its interface as a key.
    fn name_key(&self) -> Vec<u8> {
        padded(&self.interface)
    }

    /// Its link-layer address as a key.
    fn mac_key(&self) -> Vec<u8> {
        [&self.mac[..], &[0, 0]].concat()
    }

    /// Who it is and what it may send as.
    fn identity(&self) -> Vec<Element> {
        let sender = [self.name_key(), self.mac_key()].concat();
        let mut elements = vec![
            Element::of(inet::SENDERS, sender.clone()),
            Element::of(inet::SOURCES_4, [&sender[..], &self.ipv4.octets()].concat()),
            Element::of(inet::SOURCES_6, [&sender[..], &self.prefix()].concat()),
            Element::of(inet::INSIDE_4, self.ipv4.octets().to_vec()),
        ];
        match &self.zone {
            None => elements.extend(self.link()),
            Some(place) => elements.extend(bridge::member(&place.port, self.mac, self.ipv4, self.ipv6)),
        }
        elements
    }

    /// What is of its link; in a zone, of all machines in it.
    pub(super) fn link(&self) -> Vec<Element> {
        let interface = self.name_key();
        let mut elements = vec![
            Element::of(inet::LINKS, interface.clone()),
            Element::of(inet::FORGED, interface.clone()),
            Element::of(inet::INSIDE_6, self.prefix().to_vec()),
        ];
        if self.zone.is_some() {
            elements.push(Element::of(inet::ZONES, interface.clone()));
            elements.push(Element::of(inet::SAME_ZONE, [interface.clone(), interface].concat()));
        }
        elements
    }

    fn prefix(&self) -> [u8; 16] {
        Ipv6Addr::from_bits(self.ipv6.to_bits() >> 64 << 64).octets()
    }

    /// Where its ports lead.
    fn forwards(&self) -> impl Iterator<Item = Element> + '_ {
        self.ports.iter().flat_map(|port| (port.host..=port.last).map(move |number| (port, number))).flat_map(
            |(port, number)| {
                let guest = port.guest.saturating_add(number - port.host);
                let wide = |number: u16| [&number.to_be_bytes()[..], &[0, 0]].concat();
                let protocol = if port.protocol == Protocol::Udp { inet::UDP } else { inet::TCP };
                let at = [&[protocol, 0, 0, 0][..], &wide(number)].concat();
                let to_4 = [&self.ipv4.octets()[..], &wide(guest)].concat();
                let to_6 = [&self.ipv6.octets()[..], &wide(guest)].concat();
                match port.address {
                    None => {
                        vec![
                            Element::leading(inet::PORTS_4, at.clone(), to_4),
                            Element::leading(inet::PORTS_6, at, to_6),
                        ]
                    }
                    Some(IpAddr::V4(address)) => {
                        vec![Element::leading(inet::AT_4, [&address.octets()[..], &at].concat(), to_4)]
                    }
                    Some(IpAddr::V6(address)) => {
                        vec![Element::leading(inet::AT_6, [&address.octets()[..], &at].concat(), to_6)]
                    }
                }
            },
        )
    }

    /// Redirects DNS queries that the machine sends to its gateway, by interface and link-layer address.
    fn resolver_redirects(&self) -> Vec<Element> {
        let (Some(gateway), Some(resolver)) = (self.gateway, self.resolver) else { return Vec::new() };
        let port = [&53_u16.to_be_bytes()[..], &[0, 0]].concat();
        let to = [&resolver.octets()[..], &port].concat();
        let redirect = |protocol| {
            let at = [&self.mac_key()[..], &gateway.octets(), &[protocol, 0, 0, 0], &port].concat();
            Element::leading(inet::RESOLVERS, [self.name_key(), at].concat(), to.clone())
        };
        [inet::UDP, inet::TCP].map(redirect).to_vec()
    }

    /// Whom it may speak to, and how fast.
    fn bounded(&self) -> Vec<Element> {
        let ranges = self.egress().into_iter().map(|(first, last)| {
            let end = |address| match address {
                IpAddr::V4(address) => [self.mac_key(), address.octets().to_vec()].concat(),
                IpAddr::V6(address) => [self.mac_key(), address.octets().to_vec()].concat(),
            };
            let set = if first.is_ipv4() { inet::EGRESS_4 } else { inet::EGRESS_6 };
            Element { end: Some(end(last)), ..Element::of(set, end(first)) }
        });
        let confined = self.bounds.egress.iter().flat_map(|_| {
            let in_zone = self
                .zone
                .iter()
                .flat_map(|place| bridge::confined(self.mac, place.router, self.bounds.reach));
            in_zone.chain([Element::of(inet::CONFINED, self.mac.to_vec())])
        });
        // In a zone its port is known, its interface is that of all.
        let (family, key) = (self.family(), padded(self.own_interface()));
        let paced = self.limits().into_iter().map(|(set, object, _)| Element {
            object: Some(object),
            ..Element::of_family(family, set, key.clone())
        });
        ranges.chain(confined).chain(paced).collect()
    }

    /// The addresses it may speak to, those of its zone among them where it is meant, less the host's.
    fn egress(&self) -> Vec<(IpAddr, IpAddr)> {
        let said = self.bounds.egress.iter().flatten();
        let mut ranges: Vec<_> = said.map(|range| (range.first(), range.last())).collect();
        if self.zone.is_some() && self.bounds.egress.is_some() && self.bounds.reach == Reach::Zone {
            let own = [Range::new(self.ipv4.into(), zone::LENGTH), Range::new(self.ipv6.into(), IPV6_LENGTH)];
            ranges
                .extend(own.into_iter().flatten().map(|own| (zone::first_machine(own.first()), own.last())));
            // What is said to all of it at once the host hears as well.
            let all =
                [(Ipv4Addr::new(224, 0, 0, 0).into(), 4), (Ipv4Addr::BROADCAST.into(), 32), (MULTICAST, 8)];
            let all = all.into_iter().filter_map(|(address, length)| Range::new(address, length));
            ranges.extend(all.map(|range| (range.first(), range.last())));
        }
        // Two that overlap cannot be.
        ranges.sort();
        let mut joined: Vec<(IpAddr, IpAddr)> = Vec::new();
        for (first, last) in ranges {
            match joined
                .last_mut()
                .filter(|before| before.1 >= first && before.1.is_ipv4() == first.is_ipv4())
            {
                Some(before) => before.1 = before.1.max(last),
                None => joined.push((first, last)),
            }
        }
        joined
    }

    /// The table that its link is bound by.
    fn family(&self) -> u8 {
        if self.zone.is_some() { BRIDGE } else { INET }
    }

    /// The interface of the host that is its alone.
    pub(super) fn own_interface(&self) -> &str {
        self.zone.as_ref().map_or(&self.interface, |place| &place.port)
    }

    /// The objects that limit it: the map they are in, their names, bytes in a second.
    fn limits(&self) -> Vec<(&'static str, String, u64)> {
        [(inet::RATES_IN, "in", self.bounds.rate_in), (inet::RATES_OUT, "out", self.bounds.rate_out)]
            .into_iter()
            .filter_map(|(set, way, rate)| Some((set, format!("{}-{way}", self.own_interface()), rate? / 8)))
            .collect()
    }

    /// Everything.
    pub(super) fn elements(&self) -> Vec<Element> {
        let own = self.identity().into_iter().chain(self.resolver_redirects());
        own.chain(self.forwards()).chain(self.bounded()).collect()
    }

    /// Comes into the table.
    pub(super) fn enter(&self, batch: &mut Batch) {
        policy::make(batch, self);
        self.make_limits(batch);
        let mut elements = self.elements();
        if self.zone.is_some() {
            // There already, but for the first of the zone.
            elements.extend(self.link());
        }
        push_all(batch, Kind::NewElements, elements);
    }

    /// What is to go with it: what others need stays.
    pub(super) fn going(&self, others: Others) -> Vec<Element> {
        let mut elements = self.elements();
        if self.zone.is_some() && !others.same_zone {
            elements.extend(self.link());
        }
        elements.retain(|element| others.zoned || element.family != BRIDGE);
        elements
    }

    /// Becomes another of the same link: what differs comes and goes, in one transaction.
    pub(super) fn become_other(&self, other: &Self, extras: &[Extra], batch: &mut Batch) {
        policy::make(batch, other);
        let [before, after] = [self, other].map(|one| {
            one.forwards().chain(one.resolver_redirects()).chain(one.bounded()).collect::<Vec<Element>>()
        });
        // A limit of another rate is another object of the same name.
        let is_paced = self.limits() == other.limits();
        let stays = |element: &Element, others: &[Element]| {
            others.contains(element) && (is_paced || element.object.is_none())
        };
        let gone = before.iter().filter(|element| !stays(element, &after)).cloned().collect();
        let new = after.iter().filter(|element| !stays(element, &before)).cloned().collect();
        push_all(batch, Kind::DeleteElements, gone);
        if !is_paced {
            self.drop_limits(batch);
            other.make_limits(batch);
        }
        push_all(batch, Kind::NewElements, new);
        if self.bounds.connections != other.bounds.connections {
            push_all(batch, Kind::DeleteElements, connections::elements(self, extras));
            connections::delete(batch, self);
            connections::create(batch, other);
            push_all(batch, Kind::NewElements, connections::elements(other, extras));
        }
    }

    fn make_limits(&self, batch: &mut Batch) {
        for (_, name, bytes) in self.limits() {
            batch.push_for(self.family(), Kind::NewObject, Existing::Keep, &sets::limit(&name, bytes));
        }
    }

    /// What removes the objects that limit it, each for itself: one may be gone.
    pub(super) fn drop_each_limit(&self) -> Vec<Batch> {
        let alone = |(_, name, _): &(_, String, _)| {
            let mut batch = Batch::new();
            self.drop_limit(&mut batch, name);
            batch
        };
        self.limits().iter().map(alone).collect()
    }

    pub(super) fn drop_limits(&self, batch: &mut Batch) {
        self.limits().iter().for_each(|(_, name, _)| self.drop_limit(batch, name));
    }

    fn drop_limit(&self, batch: &mut Batch, name: &str) {
        batch.push_for(self.family(), Kind::DeleteObject, Existing::Keep, &sets::limit_name(name));
    }

    /// Its link-layer address.
    pub(super) fn mac(&self) -> [u8; 6] {
        self.mac
    }
}
