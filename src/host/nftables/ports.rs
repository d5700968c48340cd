//! The table `bridge coracle`: what a port of a zone's bridge may send to the others, so that no machine
//! of a zone can pass for another. There while any zone is. Called by the file above; the numbers are
//! those of the table beside it.

use super::expression::{
    ACCEPT, ADDRESS_AT, DROP, ETHER_AT, Expression, IIFNAME, L4PROTO, LINK, NETWORK, R0, TRANSPORT, counter,
    datatype, equal, meta, outside, payload, verdict, within,
};
use super::member::{Element, padded};
use super::message::{Attributes, BRIDGE, Batch, Existing, Kind};
use super::sets::keyed;
use super::table::{TABLE, UDP};
use crate::host::netlink::plan::link_local;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Ports of zones' bridges.
const PORTS: &str = "ports";
/// Ports again; each counts what it was not to send.
pub(super) const FORGED: &str = "forged";
/// Who sends by a port with which IPv4 address: port, link-layer address, address.
const SENDERS_4: &str = "senders4";
/// The same for IPv6.
const SENDERS_6: &str = "senders6";

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
    let mut elements = vec![element(PORTS, port.clone()), element(FORGED, port)];
    for address in [ipv4, Ipv4Addr::UNSPECIFIED] {
        elements.push(element(SENDERS_4, [&sender[..], &address.octets()].concat()));
    }
    for address in [ipv6, link_local(mac), Ipv6Addr::UNSPECIFIED] {
        elements.push(element(SENDERS_6, [&sender[..], &address.octets()].concat()));
    }
    elements
}

/// Makes the table, where it is not there.
pub(super) fn make(batch: &mut Batch) {
    let mut push =
        |kind, existing, attributes: &Attributes| batch.push_for(BRIDGE, kind, existing, attributes);
    push(Kind::NewTable, Existing::Refuse, &Attributes::new().text(1, TABLE));
    let sender = [(datatype::IFNAME, 16), (datatype::ETHER, 6)];
    for (name, key) in [
        (PORTS, sender[..1].to_vec()),
        (SENDERS_4, [&sender[..], &[(datatype::IPV4, 4)]].concat()),
        (SENDERS_6, [&sender[..], &[(datatype::IPV6, 16)]].concat()),
    ] {
        push(Kind::NewSet, Existing::Refuse, &keyed(name, &key).number(3, 0));
    }
    push(Kind::NewSet, Existing::Refuse, &keyed(FORGED, &sender[..1]).number(3, 0).nested(17, &counter()));
    // Before anything else that filters bridges.
    let place = Attributes::new().number(1, 0).number(2, (-300_i32).cast_unsigned());
    let chain = Attributes::new().text(1, TABLE).text(3, "guard").nested(4, &place).number(5, ACCEPT);
    push(Kind::NewChain, Existing::Refuse, &chain.text(7, "filter"));
    for rule in guard() {
        let rule = Attributes::new().text(1, TABLE).text(2, "guard").list(4, &rule);
        push(Kind::NewRule, Existing::Keep, &rule);
    }
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
