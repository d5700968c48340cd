//! The elements that translate destinations: a machine's published ports, and its DNS queries to the host's
//! resolver. Called by `part`.

use crate::machine::network::{Port, Protocol};
use crate::network::firewall::inet::sets;
use crate::network::firewall::matches::{DNS, TCP, UDP};
use crate::network::firewall::member::Member;
use crate::network::firewall::netlink::element::Element;
use std::net::IpAddr;

/// A port in a key or in data: padded to a register.
fn port_key(port: u16) -> Vec<u8> {
    [&port.to_be_bytes()[..], &[0, 0]].concat()
}

/// A protocol and a port in a key, each padded to a register.
fn service_key(protocol: u8, port: u16) -> Vec<u8> {
    [&[protocol, 0, 0, 0][..], &port_key(port)].concat()
}

/// The elements of published ports.
pub(super) fn published(member: &Member) -> Vec<Element> {
    let numbers = |port: &Port| {
        let port = *port;
        (port.host..=port.last).map(move |number| (port, number))
    };
    let ports = member.ports().iter().flat_map(numbers);
    ports
        .flat_map(|(port, number)| {
            let is_relayed = member.on_demand().contains(&port);
            let relayed = is_relayed.then(|| relayed_port(&port, number));
            published_port(member, &port, number).into_iter().chain(relayed)
        })
        .collect()
}

/// The element of one port of a range, whose first connections a process of the host relays.
fn relayed_port(port: &Port, number: u16) -> Element {
    let key = port_key(number);
    match port.address {
        None => Element::new(sets::ACTIVATION, number.to_be_bytes().to_vec()),
        Some(IpAddr::V4(address)) => {
            Element::new(sets::ACTIVATION_ADDR4, [&address.octets()[..], &key].concat())
        }
        Some(IpAddr::V6(address)) => {
            Element::new(sets::ACTIVATION_ADDR6, [&address.octets()[..], &key].concat())
        }
    }
}

/// The elements of one port of a range.
fn published_port(member: &Member, port: &Port, number: u16) -> Vec<Element> {
    let (ipv4, ipv6) = member.addresses();
    let guest = port_key(port.guest.saturating_add(number - port.host));
    let protocol = if port.protocol == Protocol::Udp { UDP } else { TCP };
    let service = service_key(protocol, number);
    let to4 = [&ipv4.octets()[..], &guest].concat();
    let to6 = [&ipv6.octets()[..], &guest].concat();
    match port.address {
        None => vec![
            Element::new(sets::DNAT4, service.clone()).with_data(to4),
            Element::new(sets::DNAT6, service).with_data(to6),
        ],
        Some(IpAddr::V4(address)) => {
            let key = [&address.octets()[..], &service].concat();
            vec![Element::new(sets::DNAT_ADDR4, key).with_data(to4)]
        }
        Some(IpAddr::V6(address)) => {
            let key = [&address.octets()[..], &service].concat();
            vec![Element::new(sets::DNAT_ADDR6, key).with_data(to6)]
        }
    }
}

/// The elements that redirect the machine's DNS queries to its gateway.
pub(super) fn dns_redirect(member: &Member) -> Vec<Element> {
    let (Some(gateway), Some(resolver)) = (member.gateway(), member.resolver()) else { return Vec::new() };
    let to = [&resolver.octets()[..], &port_key(DNS)].concat();
    let redirect = |protocol| {
        let service = service_key(protocol, DNS);
        let key = [&member.name_key()[..], &member.mac_key(), &gateway.octets(), &service].concat();
        Element::new(sets::DNS_REDIRECT, key).with_data(to.clone())
    };
    [UDP, TCP].map(redirect).to_vec()
}
