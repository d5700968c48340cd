//! Router advertisements for one host. Called by `dhcp.rs`.

use super::{Comparison, Lease, ROUTE_LIFETIME, checksum};
use crate::network::addresses::IPV6_LENGTH;
use crate::sys::filter::Instruction;
use std::net::{IpAddr, Ipv6Addr};

/// An ICMPv6 router solicitation.
pub(crate) const FILTER: [Comparison; 2] = [
    Comparison { load: &[Instruction { code: 0x30, jt: 0, jf: 0, k: 20 }], is: ICMP as u32 },
    Comparison { load: &[Instruction { code: 0x30, jt: 0, jf: 0, k: 54 }], is: SOLICITATION as u32 },
];

const ICMP: u8 = 58;
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// The hop limit of a packet not forwarded by any router.
const HOPS: u8 = 255;
const FOR_EVER: [u8; 4] = [255; 4];

/// Returns whether an IPv6 packet is a router solicitation.
pub(crate) fn is_solicitation(packet: &[u8]) -> bool {
    let is_near = packet.len() >= 48 && packet[0] >> 4 == 6 && packet[6..8] == [ICMP, HOPS];
    is_near && packet[40..42] == [SOLICITATION, 0]
}

/// Creates a packet with a router advertisement.
pub(crate) fn make(lease: &Lease) -> Vec<u8> {
    let [high, low] = ROUTE_LIFETIME.to_be_bytes();
    // 64 hops, no flags, no reachable and retransmission times.
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([1, 1]);
    message.extend(lease.host_mac.octets());
    // Flags: on-link, and autonomous.
    message.extend([3, 4, IPV6_LENGTH, if lease.is_autonomous { 0xc0 } else { 0x80 }]);
    message.extend([FOR_EVER, FOR_EVER, [0; 4]].concat());
    message.extend(lease.prefix.octets());
    let servers = lease.servers.iter().filter_map(|server| match server {
        IpAddr::V6(server) => Some(server.octets()),
        IpAddr::V4(_) => None,
    });
    let servers: Vec<_> = servers.take(8).collect();
    if let Ok(count @ 1..) = u8::try_from(servers.len()) {
        message.extend([25, 1 + 2 * count, 0, 0]);
        message.extend(FOR_EVER);
        message.extend(servers.concat());
    }
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    let ends = [lease.link_local.octets(), ALL_NODES.octets()].concat();
    let sum = checksum(&[&ends, &[0, 0], &length, &[0, 0, 0, ICMP], &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    [&[0x60, 0, 0, 0][..], &length, &[ICMP, HOPS], &ends, &message].concat()
}
