//! DHCP messages for one client with a constant lease. Called by `dhcp.rs`.

use super::{Comparison, Lease, checksum};
use crate::machine::mac_addr::MacAddr;
use crate::sys::filter::Instruction;
use std::net::{IpAddr, Ipv4Addr};

/// UDP to the server's port, no fragment but the first.
pub(crate) const FILTER: [Comparison; 3] = [
    Comparison { load: &[Instruction { code: 0x30, jt: 0, jf: 0, k: 23 }], is: 17 },
    Comparison {
        load: &[
            Instruction { code: 0x28, jt: 0, jf: 0, k: 20 },
            Instruction { code: 0x54, jt: 0, jf: 0, k: 0x1fff },
        ],
        is: 0,
    },
    Comparison {
        load: &[
            // Loads the header length, then the destination port.
            Instruction { code: 0xb1, jt: 0, jf: 0, k: 14 },
            Instruction { code: 0x48, jt: 0, jf: 0, k: 16 },
        ],
        is: SERVER as u32,
    },
];

const SERVER: u16 = 67;
const CLIENT: u16 = 68;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Offset of the options, after the magic cookie.
const OPTIONS: usize = 240;
/// The shortest message in bytes: older clients reject a shorter one (RFC 951).
const SHORTEST: usize = 300;

/// Types of messages.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACKNOWLEDGE: u8 = 5;
const REFUSE: u8 = 6;
const INFORM: u8 = 8;

/// The used fields of a client's message.
#[derive(Debug, Default)]
struct DhcpRequest {
    kind: u8,
    transaction: [u8; 4],
    flags: [u8; 2],
    has: Option<Ipv4Addr>,
    wants: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

/// Returns the reply to an IPv4 packet.
pub(crate) fn answer(lease: &Lease, packet: &[u8]) -> Option<Vec<u8>> {
    let request = parse(datagram(packet)?, lease.guest_mac)?;
    if request.server.is_some_and(|server| server != lease.router) {
        return None;
    }
    let kind = match request.kind {
        DISCOVER => OFFER,
        REQUEST if request.wants.or(request.has)? == lease.address => ACKNOWLEDGE,
        REQUEST => REFUSE,
        INFORM => ACKNOWLEDGE,
        _ => return None,
    };
    // A client with an address receives at it, unless the address belongs to another network.
    let to = request.has.filter(|_| kind == ACKNOWLEDGE).unwrap_or(Ipv4Addr::BROADCAST);
    Some(wrap(lease.router, to, &reply(lease, &request, kind)))
}

/// Returns the payload of a UDP datagram to the server.
fn datagram(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header = usize::from(first & 0xf) * 4;
    let whole = usize::from(number(packet, 2)?);
    if first >> 4 != 4 || header < 20 || packet.get(9) != Some(&17) || number(packet, 6)? & 0x3fff != 0 {
        return None;
    }
    let datagram = packet.get(header..whole)?;
    let length = usize::from(number(datagram, 4)?);
    if number(datagram, 2)? == SERVER { datagram.get(8..length) } else { None }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?))
}

fn parse(message: &[u8], client: MacAddr) -> Option<DhcpRequest> {
    // BOOTREQUEST, Ethernet, 6 bytes of address, from this client.
    if message.get(..3)? != [1, 1, 6]
        || message.get(28..34)? != client.octets()
        || message.get(OPTIONS - 4..OPTIONS)? != COOKIE
    {
        return None;
    }
    let mut request = DhcpRequest {
        transaction: *message.get(4..)?.first_chunk()?,
        flags: *message.get(10..)?.first_chunk()?,
        has: address(message.get(12..)?).filter(|address| !address.is_unspecified()),
        ..DhcpRequest::default()
    };
    let mut rest = message.get(OPTIONS..)?;
    while let Some((&code, after)) = rest.split_first() {
        rest = match code {
            0 => after,
            255 => break,
            _ => {
                let (&length, after) = after.split_first()?;
                let (value, after) = after.split_at_checked(length.into())?;
                match code {
                    50 => request.wants = Some(address(value)?),
                    53 => request.kind = *value.first()?,
                    54 => request.server = Some(address(value)?),
                    _ => {}
                }
                after
            }
        };
    }
    Some(request)
}

fn reply(lease: &Lease, request: &DhcpRequest, kind: u8) -> Vec<u8> {
    let mut message = vec![0; OPTIONS];
    message[..3].copy_from_slice(&[2, 1, 6]);
    message[4..8].copy_from_slice(&request.transaction);
    message[10..12].copy_from_slice(&request.flags);
    if kind == ACKNOWLEDGE {
        message[12..16].copy_from_slice(&request.has.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    }
    let gives = kind != REFUSE && request.kind != INFORM;
    if gives {
        message[16..20].copy_from_slice(&lease.address.octets());
        message[20..24].copy_from_slice(&lease.router.octets());
    }
    message[28..34].copy_from_slice(&lease.guest_mac.octets());
    message[OPTIONS - 4..].copy_from_slice(&COOKIE);
    let mut option = |code: u8, value: &[u8]| {
        if let Ok(length) = u8::try_from(value.len())
            && length > 0
        {
            message.extend([code, length]);
            message.extend(value);
        }
    };
    option(53, &[kind]);
    option(54, &lease.router.octets());
    if gives {
        // Infinite lease time.
        option(51, &[255; 4]);
    }
    if kind != REFUSE {
        option(1, &(u32::MAX << (32 - lease.length)).to_be_bytes());
        option(3, &lease.router.octets());
        let servers = lease.servers.iter().filter_map(|server| match server {
            IpAddr::V4(server) => Some(server.octets()),
            IpAddr::V6(_) => None,
        });
        option(6, &servers.take(8).collect::<Vec<_>>().concat());
        option(119, &domains(&lease.search));
    }
    message.push(255);
    message.resize(message.len().max(SHORTEST), 0);
    message
}

/// Encodes domains as labels (RFC 3397), as many as fit into one option.
fn domains(search: &[String]) -> Vec<u8> {
    let mut list = Vec::new();
    for domain in search {
        let labels = domain.trim_matches('.').split('.');
        let name = labels.map(|label| Some([&[label_length(label)?][..], label.as_bytes()].concat()));
        let Some(name) = name.collect::<Option<Vec<_>>>() else { continue };
        let name = [name.concat(), vec![0]].concat();
        if list.len() + name.len() <= 255 {
            list.extend(name);
        }
    }
    list
}

fn label_length(label: &str) -> Option<u8> {
    u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))
}

/// Wraps a message into a UDP datagram and an IPv4 packet.
fn wrap(from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let length = |more: usize| u16::try_from(message.len() + more).unwrap_or(u16::MAX).to_be_bytes();
    let mut udp = [&SERVER.to_be_bytes()[..], &CLIENT.to_be_bytes(), &length(8), &[0; 2], message].concat();
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 17], &length(8)].concat();
    // Zero means "no checksum" (RFC 768).
    let sum = Some(checksum(&[&pseudo, &udp])).filter(|sum| *sum != 0).unwrap_or(u16::MAX);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut ip =
        [&[0x45, 0][..], &length(28), &[0, 0, 0, 0, 64, 17, 0, 0], &from.octets(), &to.octets()].concat();
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend(udp);
    ip
}
