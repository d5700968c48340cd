//! A machine's part of the table `inet coracle`: the elements of sets and maps that come and go with
//! it, and those that change while it runs. Called by the file above, which sends them.

use super::message::{Attributes, BRIDGE, Batch, Existing, INET, Kind, Read};
use super::{bounds, ports, sets, table};
use crate::host::netlink::plan::zone::is_shared;
use crate::host::netlink::plan::{IPV6_LENGTH, Plan, zone};
use crate::machine::egress::{self, Range};
use crate::machine::network::{Network, Port, Protocol, Zone};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
}

/// A machine's place in a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    zone: Zone,
    /// The host's end of its link, a port of the zone's bridge.
    port: String,
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
    /// The most that comes to it, bits in a second.
    pub rate_in: Option<u64>,
    /// The most that it sends.
    pub rate_out: Option<u64>,
}

impl Bounds {
    /// Those of a definition.
    pub fn of(network: &Network) -> Self {
        Self {
            egress: egress::allowed(&network.egress),
            rate_in: network.rate_in,
            rate_out: network.rate_out,
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
            zone: plan.zone.clone().map(|zone| Place { zone, port: plan.host_interface.clone() }),
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

    /// The same with other ports.
    #[must_use]
    pub fn forwarding(self, ports: Vec<Port>) -> Self {
        Self { ports, ..self }
    }

    /// The same with everything that another one of the same link has, for taking both out.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        let new: Vec<Port> = other.ports.iter().filter(|port| !self.ports.contains(port)).copied().collect();
        self.ports.extend(new);
        let Bounds { egress, rate_in, rate_out } = other.bounds.clone();
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
            Element::of(table::SENDERS, sender.clone()),
            Element::of(table::SOURCES_4, [&sender[..], &self.ipv4.octets()].concat()),
            Element::of(table::SOURCES_6, [&sender[..], &self.prefix()].concat()),
            Element::of(table::INSIDE_4, self.ipv4.octets().to_vec()),
        ];
        match &self.zone {
            None => elements.extend(self.link()),
            Some(place) => elements.extend(ports::member(&place.port, self.mac, self.ipv4, self.ipv6)),
        }
        elements
    }

    /// What is of its link; in a zone, of all machines in it.
    pub(super) fn link(&self) -> Vec<Element> {
        let interface = self.name_key();
        let mut elements = vec![
            Element::of(table::LINKS, interface.clone()),
            Element::of(table::FORGED, interface.clone()),
            Element::of(table::INSIDE_6, self.prefix().to_vec()),
        ];
        if self.zone.is_some() {
            elements.push(Element::of(table::ZONES, interface.clone()));
            elements.push(Element::of(table::SAME_ZONE, [interface.clone(), interface].concat()));
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
                let protocol = if port.protocol == Protocol::Udp { table::UDP } else { table::TCP };
                let at = [&[protocol, 0, 0, 0][..], &wide(number)].concat();
                let to_4 = [&self.ipv4.octets()[..], &wide(guest)].concat();
                let to_6 = [&self.ipv6.octets()[..], &wide(guest)].concat();
                match port.address {
                    None => {
                        vec![
                            Element::leading(table::PORTS_4, at.clone(), to_4),
                            Element::leading(table::PORTS_6, at, to_6),
                        ]
                    }
                    Some(IpAddr::V4(address)) => {
                        vec![Element::leading(table::AT_4, [&address.octets()[..], &at].concat(), to_4)]
                    }
                    Some(IpAddr::V6(address)) => {
                        vec![Element::leading(table::AT_6, [&address.octets()[..], &at].concat(), to_6)]
                    }
                }
            },
        )
    }

    /// Whom it may speak to, and how fast.
    fn bounded(&self) -> Vec<Element> {
        let ranges = self.egress().into_iter().map(|range| {
            let end = |address| match address {
                IpAddr::V4(address) => [self.mac_key(), address.octets().to_vec()].concat(),
                IpAddr::V6(address) => [self.mac_key(), address.octets().to_vec()].concat(),
            };
            let set = if range.first().is_ipv4() { table::EGRESS_4 } else { table::EGRESS_6 };
            Element { end: Some(end(range.last())), ..Element::of(set, end(range.first())) }
        });
        let confined = self.bounds.egress.iter().map(|_| Element::of(table::CONFINED, self.mac.to_vec()));
        let paced = self
            .limits()
            .into_iter()
            .map(|(set, object, _)| Element { object: Some(object), ..Element::of(set, self.name_key()) });
        ranges.chain(confined).chain(paced).collect()
    }

    /// The addresses it may speak to, those of its zone among them: what stays in it meets these rules
    /// where the kernel has bridges filtered.
    fn egress(&self) -> Vec<Range> {
        let mut ranges = self.bounds.egress.clone().unwrap_or_default();
        if self.zone.is_some() && self.bounds.egress.is_some() {
            let own = [Range::new(self.ipv4.into(), zone::LENGTH), Range::new(self.ipv6.into(), IPV6_LENGTH)];
            for own in own.into_iter().flatten() {
                // Two that overlap cannot be.
                ranges.retain(|range| !own.covers(range));
                if !ranges.iter().any(|range| range.covers(&own)) {
                    ranges.push(own);
                }
            }
        }
        ranges
    }

    /// The objects that limit it: the map they are in, their names, bytes in a second.
    fn limits(&self) -> Vec<(&'static str, String, u64)> {
        [(table::RATES_IN, "in", self.bounds.rate_in), (table::RATES_OUT, "out", self.bounds.rate_out)]
            .into_iter()
            .filter_map(|(set, way, rate)| Some((set, format!("{}-{way}", self.interface), rate? / 8)))
            .collect()
    }

    /// Everything.
    pub(super) fn elements(&self) -> Vec<Element> {
        self.identity().into_iter().chain(self.forwards()).chain(self.bounded()).collect()
    }

    /// Comes into the table.
    pub(super) fn enter(&self, batch: &mut Batch) {
        bounds::make(batch, self);
        for (_, name, bytes) in self.limits() {
            batch.push(Kind::NewObject, Existing::Keep, &sets::limit(&name, bytes));
        }
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

    /// Goes out of it.
    pub(super) fn leave(&self, batch: &mut Batch, others: Others) {
        push_all(batch, Kind::DeleteElements, self.going(others));
        self.drop_limits(batch);
    }

    /// Becomes another of the same link: what differs comes and goes, in one transaction.
    pub(super) fn become_other(&self, other: &Self, batch: &mut Batch) {
        bounds::make(batch, other);
        let [before, after] =
            [self, other].map(|one| one.forwards().chain(one.bounded()).collect::<Vec<Element>>());
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
            for (_, name, bytes) in other.limits() {
                batch.push(Kind::NewObject, Existing::Keep, &sets::limit(&name, bytes));
            }
        }
        push_all(batch, Kind::NewElements, new);
    }

    /// Removes the objects that limit it, each for itself: one may be gone.
    pub(super) fn limit_names(&self) -> Vec<Attributes> {
        self.limits().iter().map(|(_, name, _)| sets::limit_name(name)).collect()
    }

    fn drop_limits(&self, batch: &mut Batch) {
        self.limit_names().iter().for_each(|name| batch.push(Kind::DeleteObject, Existing::Keep, name));
    }

    /// What the elements of a set say of it: packets that were found there.
    pub(super) fn count(&self, set: &str, elements: Read<'_>) -> u64 {
        let port = self.zone.as_ref().map(|place| padded(&place.port));
        let key = if set == table::CONFINED { self.mac.to_vec() } else { port.unwrap_or(self.name_key()) };
        let mut all = elements.list(3);
        all.find_map(|element| {
            let found = element.nested(1)?.bytes(1)?;
            found.starts_with(&key).then(|| element.nested(7)?.nested(2)?.long(2)).flatten()
        })
        .unwrap_or(0)
    }
}

/// The name of an interface as the kernel compares it.
pub(super) fn padded(interface: &str) -> Vec<u8> {
    let mut key = vec![0; 16];
    let length = interface.len().min(15);
    key[..length].copy_from_slice(&interface.as_bytes()[..length]);
    key
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    family: u8,
    set: &'static str,
    key: Vec<u8>,
    end: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    object: Option<String>,
}

impl Element {
    fn of(set: &'static str, key: Vec<u8>) -> Self {
        Self::of_family(INET, set, key)
    }

    /// One of a table of another family.
    pub(super) fn of_family(family: u8, set: &'static str, key: Vec<u8>) -> Self {
        Self { family, set, key, end: None, data: None, object: None }
    }

    fn leading(set: &'static str, key: Vec<u8>, data: Vec<u8>) -> Self {
        Self { data: Some(data), ..Self::of(set, key) }
    }

    fn attributes(&self) -> Attributes {
        let value = |bytes: &[u8]| Attributes::new().bytes(1, bytes);
        let mut item = Attributes::new().nested(1, &value(&self.key));
        if let Some(end) = &self.end {
            item = item.nested(10, &value(end));
        }
        if let Some(data) = &self.data {
            item = item.nested(2, &value(data));
        }
        if let Some(object) = &self.object {
            item = item.text(9, object);
        }
        item
    }
}

/// Makes or removes elements, those of one set together: a message each.
fn push_all(batch: &mut Batch, kind: Kind, mut elements: Vec<Element>) {
    elements.sort_by_key(|element| (element.family, element.set));
    for same in elements.chunk_by(|one, other| (one.family, one.set) == (other.family, other.set)) {
        // An attribute holds 64 KiB.
        same.chunks(256).for_each(|some| push(batch, kind, some));
    }
}

/// Makes or removes elements of one set.
pub(super) fn push(batch: &mut Batch, kind: Kind, elements: &[Element]) {
    let Some(first) = elements.first() else { return };
    let items: Vec<Attributes> = elements.iter().map(Element::attributes).collect();
    let elements = Attributes::new().text(1, table::TABLE).text(2, first.set).list(3, &items);
    batch.push_for(first.family, kind, Existing::Keep, &elements);
}
