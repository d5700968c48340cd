//! The elements of a machine's link and of its extra links: identity, source addresses and masquerading.
//! Called by `part`.

use crate::network::addresses::link_local;
use crate::network::firewall::bridge;
use crate::network::firewall::extra_links::Extra;
use crate::network::firewall::inet::sets;
use crate::network::firewall::member::{Member, ZonePort};
use crate::network::firewall::netlink::element::{Element, padded};
use crate::network::firewall::netlink::nlmsg::BRIDGE;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The elements of the machine itself.
pub(super) fn identity(member: &Member) -> Vec<Element> {
    let sender = [member.name_key(), member.mac_key()].concat();
    let (ipv4, _) = member.addresses();
    let source4 = [&sender[..], &ipv4.octets()].concat();
    let source6 = [&sender[..], &member.ipv6_prefix().octets()].concat();
    let mut elements = vec![
        Element::new(sets::MACHINE_MACS, sender),
        Element::new(sets::ANTISPOOF_SRC4, source4),
        Element::new(sets::ANTISPOOF_SRC6, source6),
        Element::new(sets::MASQUERADE_SRC4, ipv4.octets().to_vec()),
    ];
    match member.zone_port() {
        None => elements.extend(interface(member)),
        Some(port) => elements.extend(zone_port(member, port)),
    }
    elements
}

/// The elements of the interface: of the machine's link, or of the bridge that all machines of the zone
/// share.
pub(super) fn interface(member: &Member) -> Vec<Element> {
    let name = member.name_key();
    let mut elements = vec![
        Element::new(sets::MACHINE_LINKS, name.clone()),
        Element::new(sets::ANTISPOOF_DROPS, name.clone()),
        Element::new(sets::MASQUERADE_SRC6, member.ipv6_prefix().octets().to_vec()),
    ];
    if member.zone().is_some() {
        elements.push(Element::new(sets::ZONE_BRIDGES, name.clone()));
        elements.push(Element::new(sets::SAME_ZONE, [name.clone(), name].concat()));
    }
    elements
}

/// The elements of the machine's port of a zone. Duplicate address detection and DHCP clients send from the
/// unspecified addresses.
fn zone_port(member: &Member, port: &ZonePort) -> Vec<Element> {
    let (ipv4, ipv6) = member.addresses();
    let port = padded(&port.port);
    let sender = [&port[..], &member.mac_key()].concat();
    let same_port = [&port[..], &port].concat();
    let element = |set, key| Element::for_family(BRIDGE, set, key);
    let mut elements = vec![
        element(bridge::ZONE_PORTS, port.clone()),
        element(bridge::ANTISPOOF_DROPS, port),
        element(bridge::SAME_PORT, same_port),
    ];
    for address in [ipv4, Ipv4Addr::UNSPECIFIED] {
        elements.push(element(bridge::ANTISPOOF_SRC4, [&sender[..], &address.octets()].concat()));
    }
    for address in [ipv6, link_local(member.mac()), Ipv6Addr::UNSPECIFIED] {
        elements.push(element(bridge::ANTISPOOF_SRC6, [&sender[..], &address.octets()].concat()));
    }
    elements
}

/// The elements of an extra link.
pub(super) fn extra(extra: &Extra) -> Vec<Element> {
    let key = padded(extra.name());
    if extra.is_port() {
        return vec![Element::for_family(BRIDGE, bridge::HOST_BRIDGE_PORTS, key)];
    }
    let sets = [sets::EXTRA_LINKS, sets::ANTISPOOF_DROPS, sets::EXTRA_LINK_DROPS];
    sets.map(|set| Element::new(set, key.clone())).to_vec()
}
