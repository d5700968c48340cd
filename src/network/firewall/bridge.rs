//! The table `bridge coracle`: what a port of a zone's bridge may send to the others, so that no machine
//! of a zone can pass for another, whom it may speak to, and how fast. There while any zone is. Called by
//! the file above; the numbers are those of the table beside it.

use super::element::{Element, padded};
use super::expression::{
    ACCEPT, ADDRESS_AT, DROP, ETHER_AT, Expression, IIFNAME, L4PROTO, LINK, NETWORK, OIFNAME, PKTTYPE, R0,
    TRANSPORT, at_least, at_most, counter, datatype, equal, expression, leads, mask, meta, outside, payload,
    value, verdict, within,
};
use super::inet::{CONFINED, RATES_IN, RATES_OUT, TABLE, UDP};
use super::message::{Attributes, BRIDGE, Batch, Existing, Kind};
use super::policy::{neighbour, paced};
use super::sets::{counted, limits, map, set};
use crate::network::addresses::link_local;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Ports of zones' bridges.
const PORTS: &str = "ports";
/// Ports again; each counts what it was not to send.
pub(super) const FORGED: &str = "forged";
/// Ports of zones' bridges twice: the way of a frame that a port sends back.
const SAME_PORT: &str = "same-port";
/// Ports of machines at bridges of the host; each counts messages of routers to the host.
pub(super) const GUESTS: &str = "guests";
/// Who sends by a port with which IPv4 address: port, link-layer address, address.
const SENDERS_4: &str = "senders4";
/// The same for IPv6.
const SENDERS_6: &str = "senders6";

/// Where frames from and to a machine that may not speak to everybody go instead of to their receiver: to
/// the host, which knows connections and sends them on; its link-layer address to the bridge's.
const ROUTED: &str = "routed";
/// Those of them that may speak to all of their zone.
const OPEN: &str = "open";

/// How the names of ports begin.
const PREFIX: &str = "vb-";

/// `META_PROTOCOL`: the protocol in a frame.
const PROTOCOL: u32 = 1;
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ICMP6: u8 = 58;

/// What a machine may send by its port. The unspecified addresses are those of questions: whether an
/// address is free, and for one by DHCP.
pub(super) fn member(port: &str, mac: [u8; 6], ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Vec<Element> {
    let port = padded(port);
    let sender = [&port[..], &mac, &[0, 0]].concat();
    let element = |set, key| Element::of_family(BRIDGE, set, key);
    let twice = [&port[..], &port].concat();
    let mut elements = vec![element(PORTS, port.clone()), element(FORGED, port), element(SAME_PORT, twice)];
    for address in [ipv4, Ipv4Addr::UNSPECIFIED] {
        elements.push(element(SENDERS_4, [&sender[..], &address.octets()].concat()));
    }
    for address in [ipv6, link_local(mac), Ipv6Addr::UNSPECIFIED] {
        elements.push(element(SENDERS_6, [&sender[..], &address.octets()].concat()));
    }
    elements
}

/// Whom a machine may speak to that may not speak to everybody.
pub(super) fn confined(mac: [u8; 6], router: [u8; 6], reach: Reach) -> Vec<Element> {
    let element = |set| Element::of_family(BRIDGE, set, mac.to_vec());
    let mut elements = vec![element(CONFINED), element(ROUTED).leading_to(router.to_vec())];
    if reach == Reach::Zone {
        elements.push(element(OPEN));
    }
    elements
}

/// Whether a machine may speak to all of its zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// To whom else is said.
    #[default]
    Said,
    /// To all in it.
    Zone,
}

/// Makes the table, where it is not there.
pub(super) fn make(batch: &mut Batch) {
    batch.push_for(BRIDGE, Kind::NewTable, Existing::Refuse, &Attributes::new().text(1, TABLE));
    let (port, ether) = ((datatype::IFNAME, 16), (datatype::ETHER, 6));
    set(batch, BRIDGE, PORTS, &[port]);
    set(batch, BRIDGE, SAME_PORT, &[port, port]);
    set(batch, BRIDGE, SENDERS_4, &[port, ether, (datatype::IPV4, 4)]);
    set(batch, BRIDGE, SENDERS_6, &[port, ether, (datatype::IPV6, 16)]);
    counted(batch, BRIDGE, FORGED, &[port]);
    counted(batch, BRIDGE, GUESTS, &[port]);
    counted(batch, BRIDGE, CONFINED, &[ether]);
    map(batch, BRIDGE, ROUTED, &[ether], &[ether]);
    set(batch, BRIDGE, OPEN, &[ether]);
    limits(batch, BRIDGE, RATES_IN);
    limits(batch, BRIDGE, RATES_OUT);
    let mut push =
        |kind, existing, attributes: &Attributes| batch.push_for(BRIDGE, kind, existing, attributes);
    // The first before anything else that filters bridges, the next before bridges are filtered as routers are.
    let delivered = vec![paced(OIFNAME, PREFIX, RATES_IN)];
    for (name, hook, priority, rules) in [
        ("guard", 0, -300_i32, guard()),
        ("sent", 0, -290, sent()),
        ("to-host", 1, -300, to_host()),
        ("reflected", 2, -300, reflected()),
        ("delivered", 4, 0, delivered),
    ] {
        let place = Attributes::new().number(1, hook).number(2, priority.cast_unsigned());
        let chain = Attributes::new().text(1, TABLE).text(3, name).nested(4, &place).number(5, ACCEPT);
        push(Kind::NewChain, Existing::Refuse, &chain.text(7, "filter"));
        for rule in rules {
            let rule = Attributes::new().text(1, TABLE).text(2, name).list(4, &rule);
            push(Kind::NewRule, Existing::Keep, &rule);
        }
    }
}

/// The number of rules of each chain.
pub(super) fn counts() -> Vec<(&'static str, usize)> {
    vec![
        ("guard", guard().len()),
        ("sent", sent().len()),
        ("to-host", to_host().len()),
        ("reflected", 1),
        ("delivered", 1),
    ]
}

/// The protocol of a frame.
fn carries(protocol: u16) -> [Expression; 2] {
    [meta(PROTOCOL, R0), equal(R0, &protocol.to_be_bytes())]
}

/// The port and the link-layer address it comes from, as the beginning of a key.
fn sender() -> [Expression; 2] {
    [meta(IIFNAME, R0), payload(LINK, 6, 6, ETHER_AT)]
}

/// A datagram from this port: what servers send.
fn from_port(protocol: u16, port: u16) -> Vec<Expression> {
    let mut rule = carries(protocol).to_vec();
    rule.extend([meta(L4PROTO, R0), equal(R0, &[UDP])]);
    rule.extend([payload(TRANSPORT, 0, 2, R0), equal(R0, &port.to_be_bytes())]);
    rule
}

/// A message of ICMPv6 of this kind.
fn icmp6(kind: u8) -> Vec<Expression> {
    let mut rule = carries(IPV6).to_vec();
    rule.extend([meta(L4PROTO, R0), equal(R0, &[ICMP6]), payload(TRANSPORT, 0, 1, R0), equal(R0, &[kind])]);
    rule
}

/// A port of a zone sends back frames to its machine alone: the machine's own to all would look like those of another
/// with its addresses.
fn reflected() -> Vec<Vec<Expression>> {
    // ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 iifname . oifname @same-port drop
    let to_many = [payload(LINK, 0, 1, R0), mask(R0, &[1]), equal(R0, &[1])];
    let same = [meta(IIFNAME, R0), meta(OIFNAME, R0 + 4), within(SAME_PORT, R0), verdict(DROP)];
    vec![[&to_many[..], &same].concat()]
}

/// Frames from ports at bridges of the host to the host itself: no machine is its router.
fn to_host() -> Vec<Vec<Expression>> {
    let refused = |kind| {
        // iifname @guests icmpv6 type { nd-router-advert, nd-redirect } counter drop
        let by = [meta(IIFNAME, R0), within(GUESTS, R0), counter(), verdict(DROP)];
        [icmp6(kind), by.to_vec()].concat()
    };
    vec![refused(134), refused(137)]
}

fn guard() -> Vec<Vec<Expression>> {
    let dropped = |mut rule: Vec<Expression>| {
        rule.extend([meta(IIFNAME, R0), within(FORGED, R0), counter(), verdict(DROP)]);
        rule
    };
    let accepted = |mut rule: Vec<Expression>| {
        rule.push(verdict(ACCEPT));
        rule
    };
    let with = |protocol, rest: &[Expression]| [&carries(protocol)[..], &sender(), rest].concat();
    // What an answer to ARP says of its sender, and what an answer of IPv6 says whose it is.
    let claim = [payload(NETWORK, 8, 6, ETHER_AT), within(SENDERS_4, R0)];
    let claimed = [&icmp6(136)[..], &sender(), &[payload(TRANSPORT, 8, 16, ADDRESS_AT)]].concat();
    vec![
        vec![meta(IIFNAME, R0), outside(PORTS, R0), verdict(ACCEPT)],
        accepted(with(
            ARP,
            &[&[payload(NETWORK, 14, 4, ADDRESS_AT), within(SENDERS_4, R0)][..], &claim].concat(),
        )),
        // Nobody in a zone gives others addresses, or is their router.
        dropped(from_port(IPV4, 67)),
        dropped(from_port(IPV6, 547)),
        dropped(icmp6(134)),
        dropped(icmp6(137)),
        dropped([claimed, vec![outside(SENDERS_6, R0)]].concat()),
        accepted(with(IPV4, &[payload(NETWORK, 12, 4, ADDRESS_AT), within(SENDERS_4, R0)])),
        accepted(with(IPV6, &[payload(NETWORK, 8, 16, ADDRESS_AT), within(SENDERS_6, R0)])),
        dropped(Vec::new()),
    ]
}

/// What is over a machine's rate goes no further. What is between one that may not speak to everybody and
/// others goes by way of the host, where `egress` of the other table judges it with its connection.
/// What no router passes on has none: it is judged here.
fn sent() -> Vec<Vec<Expression>> {
    const TO_HOST: u8 = 0;
    let from_confined = || [payload(LINK, 6, 6, R0), within(CONFINED, R0), counter(), verdict(DROP)];
    let open = || [payload(LINK, 6, 6, R0), within(OPEN, R0), verdict(ACCEPT)];
    let to_many = || [payload(LINK, 0, 1, R0), mask(R0, &[1]), equal(R0, &[1])];
    let to_neighbour = || [&carries(IPV6)[..], &neighbour()].concat();
    let by_host = |offset| {
        let to_host = Attributes::new().number(1, R0).nested(2, &value(&[TO_HOST]));
        let write = Attributes::new().number(5, R0).number(2, LINK).number(3, 0).number(4, 6);
        vec![
            payload(LINK, offset, 6, R0),
            leads(ROUTED, R0, R0),
            expression("payload", &write),
            expression("immediate", &to_host),
            expression("meta", &Attributes::new().number(2, PKTTYPE).number(3, R0)),
            verdict(ACCEPT),
        ]
    };
    let is = |kind: Vec<Expression>| [kind, vec![verdict(ACCEPT)]].concat();
    let [neighbours, listeners] = [(130, 137), (143, 143)].map(|(first, last)| {
        let kind = [meta(L4PROTO, R0), equal(R0, &[ICMP6]), payload(TRANSPORT, 0, 1, R0)];
        [&carries(IPV6)[..], &kind, &[at_least(R0, &[first]), at_most(R0, &[last])]].concat()
    });
    let asks = [
        meta(L4PROTO, R0),
        equal(R0, &[UDP]),
        payload(TRANSPORT, 2, 2, R0),
        equal(R0, &67_u16.to_be_bytes()),
    ];
    vec![
        paced(IIFNAME, PREFIX, RATES_OUT),
        // For the host itself: judged there.
        is(vec![meta(PKTTYPE, R0), equal(R0, &[TO_HOST])]),
        is(carries(ARP).to_vec()),
        // How neighbours are found, and who listens, is no connection; who has no address yet asks all.
        is(neighbours),
        is(listeners),
        is([&carries(IPV4)[..], &to_many(), &asks].concat()),
        [&to_many()[..], &open()].concat(),
        [&to_many()[..], &from_confined()].concat(),
        is(to_many().to_vec()),
        [&to_neighbour()[..], &open()].concat(),
        [&to_neighbour()[..], &from_confined()].concat(),
        is(to_neighbour()),
        by_host(6),
        by_host(0),
    ]
}
