//! The firewall: one table, `inet coracle`, spoken to over netlink without the program nft(8). Made
//! with the first machine, removed with the last. Called by the supervisor, which names a machine's
//! part in the state record first, and by `cleanup`. Own code: of the crates, some link C, some run
//! the program, and those that speak netlink have neither masquerade nor connection state.

pub mod counters;
mod message;
mod ports;
mod table;

use crate::error::{Context, Error, Result};
use crate::host::netlink::plan::Plan;
use crate::host::netlink::plan::zone::is_shared;
use crate::machine::network::{Port, Protocol, Zone};
use message::{Attributes, Batch, Existing, Family, Kind};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A machine's part of the table: what its elements are made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The host's end of its link.
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

/// Who else needs a part of the table, seen from one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Others {
    /// Any machine.
    pub any: bool,
    /// One in a zone.
    pub zoned: bool,
    /// One in the same zone.
    pub same_zone: bool,
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

    /// The ports that lead to it.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Who it is and what it may send.
    fn identity(&self) -> Vec<Element> {
        let interface = padded(&self.interface);
        let [a, b, c, d, e, f] = self.mac;
        let sender = [&interface[..], &[a, b, c, d, e, f, 0, 0]].concat();
        let mut elements = vec![
            element(table::SOURCES_4, [&sender[..], &self.ipv4.octets()].concat()),
            element(table::SOURCES_6, [&sender[..], &self.prefix()].concat()),
            element(table::INSIDE_4, self.ipv4.octets().to_vec()),
        ];
        match &self.zone {
            None => elements.extend(self.link()),
            Some(place) => elements.extend(ports::member(&place.port, self.mac, self.ipv4, self.ipv6)),
        }
        elements
    }

    /// What is of its link; in a zone, of all machines in it.
    fn link(&self) -> Vec<Element> {
        let interface = padded(&self.interface);
        let mut elements =
            vec![element(table::LINKS, interface.to_vec()), element(table::INSIDE_6, self.prefix().to_vec())];
        if self.zone.is_some() {
            elements.push(element(table::ZONES, interface.to_vec()));
            elements.push(element(table::SAME_ZONE, [interface, interface].concat()));
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
                let element = |set, key, data| Element { family: Family::Inet, set, key, data: Some(data) };
                match port.address {
                    None => {
                        vec![element(table::PORTS_4, at.clone(), to_4), element(table::PORTS_6, at, to_6)]
                    }
                    Some(IpAddr::V4(address)) => {
                        vec![element(table::AT_4, [&address.octets()[..], &at].concat(), to_4)]
                    }
                    Some(IpAddr::V6(address)) => {
                        vec![element(table::AT_6, [&address.octets()[..], &at].concat(), to_6)]
                    }
                }
            },
        )
    }

    fn elements(&self) -> Vec<Element> {
        self.identity().into_iter().chain(self.forwards()).collect()
    }

    fn push(batch: &mut Batch, kind: Kind, mut elements: Vec<Element>) {
        // Those of one set together: a message each.
        elements.sort_by_key(|element| (element.family as u8, element.set));
        for same in elements.chunk_by(|one, other| (one.family, one.set) == (other.family, other.set)) {
            // An attribute holds 64 KiB.
            same.chunks(256).for_each(|some| push(batch, kind, some));
        }
    }
}

/// An element of a set or map.
#[derive(Debug, Clone)]
struct Element {
    family: Family,
    set: &'static str,
    key: Vec<u8>,
    data: Option<Vec<u8>>,
}

fn element(set: &'static str, key: Vec<u8>) -> Element {
    Element { family: Family::Inet, set, key, data: None }
}

/// The name of an interface as the kernel compares it.
fn padded(interface: &str) -> [u8; 16] {
    let mut name = [0; 16];
    let length = interface.len().min(15);
    name[..length].copy_from_slice(&interface.as_bytes()[..length]);
    name
}

/// What came of taking a machine in.
#[derive(Debug)]
pub enum Added {
    /// It is in the table.
    Member,
    /// The kernel has no nftables, or no NAT in it.
    Unsupported(Error),
}

/// Takes a machine into the table, which is made where it is not there. One that is in it stays.
///
/// # Errors
/// A kernel that refuses.
pub fn add(member: &Member) -> Result<Added> {
    let doing = || format!("cannot set up the firewall of '{}'", member.interface);
    // Another first machine may make the table between the question and the answer, or a last one remove it.
    for _ in 0..3 {
        let mut batch = Batch::new();
        // Asked first: a transaction that fails waits until no processor is in the old rules.
        let mut was_there = is_made(Family::Inet);
        if !was_there {
            table::make(&mut batch);
        }
        let mut elements = member.elements();
        if member.zone.is_some() {
            if is_made(Family::Bridge) {
                was_there = true;
            } else {
                ports::make(&mut batch);
            }
            elements.extend(member.link());
        }
        Member::push(&mut batch, Kind::NewElements, elements);
        match commit(batch) {
            Ok(()) => return Ok(Added::Member),
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) if was_there => {}
            Err(errno @ (Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::NOENT)) => {
                return Ok(Added::Unsupported(without(Error::from(errno).context(doing()))));
            }
            Err(errno) => return Err(errno).context(doing),
        }
    }
    Err(Error::new("others change it all the time").context(doing()))
}

/// Whether the table is there.
fn is_made(family: Family) -> bool {
    ask(&Batch::question(family, Kind::GetTable, &Attributes::new().text(1, table::TABLE))).is_ok()
}

/// Takes a machine out of the tables, and away what nobody else needs. What is not there is fine.
///
/// # Errors
/// A kernel that refuses.
pub fn remove(member: &Member, others: Others) -> Result<()> {
    let doing = || format!("cannot take '{}' out of the firewall", member.interface);
    if !others.zoned && member.zone.is_some() {
        remove_table(Family::Bridge)?;
    }
    if !others.any {
        return remove_table(Family::Inet);
    }
    let mut elements = member.elements();
    if !others.zoned {
        elements.retain(|element| element.family == Family::Inet);
    }
    if member.zone.is_some() && !others.same_zone {
        elements.extend(member.link());
    }
    let mut batch = Batch::new();
    Member::push(&mut batch, Kind::DeleteElements, elements.clone());
    match commit(batch) {
        Err(Errno::NOENT) => {}
        other => return other.context(doing),
    }
    // Part of it is gone already: then one by one.
    for element in elements {
        let mut batch = Batch::new();
        push(&mut batch, Kind::DeleteElements, &[element]);
        gone(commit(batch)).context(doing)?;
    }
    Ok(())
}

/// Removes a table, with whatever is in it. None is fine.
fn remove_table(family: Family) -> Result<()> {
    let mut batch = Batch::new();
    batch.push_in(family, Kind::DeleteTable, Existing::Keep, &Attributes::new().text(1, table::TABLE));
    gone(commit(batch)).context(|| "cannot remove the firewall table 'coracle'")
}

/// What is gone already is as it should be, also where the kernel has no nftables at all.
fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT) => Ok(()),
        other => other,
    }
}

fn without(error: Error) -> Error {
    error.hint(
        "the kernel needs nftables with NAT for the inet family (CONFIG_NF_TABLES_INET, CONFIG_NFT_MASQ)",
    )
}

/// Makes or removes elements of one set.
fn push(batch: &mut Batch, kind: Kind, elements: &[Element]) {
    let Some(first) = elements.first() else { return };
    let value = |bytes: &[u8]| Attributes::new().bytes(1, bytes);
    let item = |element: &Element| {
        let item = Attributes::new().nested(1, &value(&element.key));
        match &element.data {
            Some(data) => item.nested(2, &value(data)),
            None => item,
        }
    };
    let items: Vec<Attributes> = elements.iter().map(item).collect();
    let elements = Attributes::new().text(1, table::TABLE).text(2, first.set).list(3, &items);
    batch.push_in(first.family, kind, Existing::Keep, &elements);
}

/// Carries a transaction out.
fn commit(batch: Batch) -> rustix::io::Result<()> {
    ask(&batch.finish())
}

/// Sends messages and hears the first error. The kernel has answered when the sending is over.
fn ask(messages: &[u8]) -> rustix::io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, messages, SendFlags::empty(), &kernel)?;
    let mut buffer = vec![0; 16384];
    loop {
        match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, length)) => {
                let answers = buffer.get(..length).unwrap_or_default();
                if let Some(code) = message::first_error(answers) {
                    return Err(Errno::from_raw_os_error(code));
                }
            }
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}
