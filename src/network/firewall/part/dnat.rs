//! The elements that translate destinations: a machine's published ports, and its DNS queries to the host's
//! resolver. Called by `part`.

use crate::machine::network::{Port, Protocol};
use crate::network::firewall::forwarding::Forwarding;
use crate::network::firewall::inet::sets;
use crate::network::firewall::matches::{DNS, TCP, UDP};
use crate::network::firewall::member::Member;
use crate::network::firewall::netlink::element::Element;
use crate::network::guest_addresses::GuestAddresses;
use std::net::{IpAddr, Ipv6Addr};

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
    let (ipv4, ipv6) = member.addresses();
    let targets = GuestAddresses { ipv4: Some(ipv4), ipv6: Some(ipv6) };
    single_ports(member.ports())
        .flat_map(|(port, number)| {
            let is_relayed = member.on_demand().contains(&port);
            let relayed = is_relayed.then(|| relayed_port(&port, number));
            let kept =
                (member.lacks_loopback6() && is_at_loopback6(&port)).then(|| untranslated(&port, number));
            let is_published = kept.is_none() || port.address.is_none();
            let published = is_published.then(|| published_port(targets, &port, number));
            published.into_iter().flatten().chain(kept).chain(relayed)
        })
        .collect()
}

/// Whether a port is published at `::1`.
fn is_at_loopback6(port: &Port) -> bool {
    port.address.is_none_or(|address| address == IpAddr::V6(Ipv6Addr::LOCALHOST))
}

/// The element that leaves connections to one port of a range at `::1` as they are: the host refuses them.
fn untranslated(port: &Port, number: u16) -> Element {
    let address = Ipv6Addr::LOCALHOST.octets();
    let key = [&address[..], &service_key(protocol(port), number)].concat();
    Element::new(sets::DNAT_ADDR6, key).with_data([&address[..], &port_key(number)].concat())
}

/// The number of a port's protocol.
fn protocol(port: &Port) -> u8 {
    if port.protocol == Protocol::Udp { UDP } else { TCP }
}

/// The elements of ports of a machine that configures its addresses itself.
pub(super) fn forwarded(forwarding: &Forwarding) -> Vec<Element> {
    let targets = forwarding.targets();
    let ports = single_ports(forwarding.ports());
    ports.flat_map(|(port, number)| published_port(targets, &port, number)).collect()
}

/// The single ports of ranges, each with its range.
fn single_ports(ports: &[Port]) -> impl Iterator<Item = (Port, u16)> {
    ports.iter().flat_map(|port| {
        let port = *port;
        (port.host..=port.last).map(move |number| (port, number))
    })
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
fn published_port(targets: GuestAddresses, port: &Port, number: u16) -> Vec<Element> {
    let guest = port_key(port.guest.saturating_add(number - port.host));
    let service = service_key(protocol(port), number);
    let to4 = targets.ipv4.map(|address| [&address.octets()[..], &guest].concat());
    let to6 = targets.ipv6.map(|address| [&address.octets()[..], &guest].concat());
    let key = |address: &[u8]| [address, &service].concat();
    let (key4, key6) = match port.address {
        None => (Some((sets::DNAT4, service.clone())), Some((sets::DNAT6, service.clone()))),
        Some(IpAddr::V4(address)) => (Some((sets::DNAT_ADDR4, key(&address.octets()))), None),
        Some(IpAddr::V6(address)) => (None, Some((sets::DNAT_ADDR6, key(&address.octets())))),
    };
    let elements = [key4.zip(to4), key6.zip(to6)].into_iter().flatten();
    elements.map(|((set, key), to)| Element::new(set, key).with_data(to)).collect()
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
