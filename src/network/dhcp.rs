//! A DHCP server (RFC 2131) and router advertiser (RFC 4861) for one guest: it offers the addresses, router
//! and name servers configured at the start. Frames in, frames out: the supervisor has the socket. Must not
//! trust a frame: an invalid frame is dropped. Own code: a constant lease needs a tenth of the code of the
//! available crates.

mod advertisement;
mod message;

use crate::machine::mac_addr::MacAddr;
use crate::network::addresses::{LinkPlan, link_local};
use crate::network::resolv_conf::Resolver;
use crate::sys::filter::Instruction;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The EtherType of IPv4.
pub(crate) const IPV4: u16 = 0x0800;
/// The EtherType of IPv6.
pub(crate) const IPV6: u16 = 0x86dd;
/// The lifetime of an advertised route in seconds: the greatest possible (RFC 8319).
pub(crate) const ROUTE_LIFETIME: u16 = u16::MAX;
/// The longest frame of a link, in bytes.
pub(crate) const LONGEST: usize = 1514;
const HEADER: usize = 14;

/// The configuration offered to one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    host_mac: MacAddr,
    guest_mac: MacAddr,
    router: Ipv4Addr,
    address: Ipv4Addr,
    length: u8,
    /// The IPv6 router: the link-local address of the host's end.
    link_local: Ipv6Addr,
    /// The prefix for SLAAC; the guest's address formed from it is the configured one.
    prefix: Ipv6Addr,
    servers: Vec<IpAddr>,
    search: Vec<String>,
    /// Whether the guest may form an address from the prefix.
    #[serde(default = "yes")]
    is_autonomous: bool,
    /// Whether the router forwards IPv6.
    #[serde(default = "yes")]
    has_ipv6: bool,
}

fn yes() -> bool {
    true
}

impl Lease {
    /// Returns the configuration for the machine of this link.
    pub fn new(plan: &LinkPlan, resolver: Option<&Resolver>) -> Self {
        let Resolver { servers, search, .. } = resolver.cloned().unwrap_or_default();
        Self {
            host_mac: plan.router_mac,
            guest_mac: plan.guest_mac,
            router: plan.ipv4.host,
            address: plan.ipv4.guest,
            length: plan.ipv4_length,
            link_local: link_local(plan.router_mac),
            prefix: plan.ipv6_prefix(),
            servers,
            search,
            is_autonomous: plan.is_autonomous(),
            has_ipv6: plan.has_ipv6,
        }
    }

    /// Returns the reply to a frame. `None` unless the frame is a valid request of the guest.
    pub fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let (header, packet) = frame.split_at_checked(HEADER)?;
        if header[6..12] != self.guest_mac.octets() {
            return None;
        }
        match u16::from_be_bytes([header[12], header[13]]) {
            IPV4 => message::answer(self, packet).map(|packet| self.frame(self.guest_mac, IPV4, &packet)),
            IPV6 if self.has_ipv6 => advertisement::is_solicitation(packet).then(|| self.advertisement()),
            _ => None,
        }
    }

    /// Returns an unsolicited router advertisement, for a guest that has sent a solicitation before. It is
    /// sent to all nodes, in a frame to this guest only (RFC 6085): the other machines of a zone have their
    /// own supervisors.
    pub(crate) fn advertisement(&self) -> Vec<u8> {
        self.frame(self.guest_mac, IPV6, &advertisement::make(self))
    }

    fn frame(&self, to: MacAddr, protocol: u16, packet: &[u8]) -> Vec<u8> {
        [&to.octets()[..], &self.host_mac.octets(), &protocol.to_be_bytes(), packet].concat()
    }

    /// Returns whether a reply is a router advertisement.
    pub(crate) fn is_advertisement(answer: &[u8]) -> bool {
        answer.get(12..HEADER) == Some(&IPV6.to_be_bytes())
    }

    /// Returns the socket filter that accepts only requests of the guest: other frames do not wake the
    /// supervisor.
    pub(crate) fn filter(&self) -> Vec<Instruction> {
        let (ipv4, ipv6) = (self.questions(&message::FILTER), self.questions(&advertisement::FILTER));
        let is = |protocol: u16, jt, jf| Instruction { code: JUMP_EQUAL, jt, jf, k: protocol.into() };
        let past_ipv4 = u8::try_from(ipv4.len()).unwrap_or(u8::MAX);
        [&[LOAD_HALF_12, is(IPV4, 0, past_ipv4)][..], &ipv4, &[is(IPV6, 1, 0), NOTHING], &ipv6].concat()
    }

    /// Returns a filter for frames of the guest that pass these comparisons; the first one rejects most other
    /// frames.
    fn questions(&self, comparisons: &[Comparison]) -> Vec<Instruction> {
        let [a, b, c, d, e, f] = self.guest_mac.octets();
        let sender = [
            Comparison { load: &[LOAD_WORD_6], is: u32::from_be_bytes([a, b, c, d]) },
            Comparison { load: &[LOAD_HALF_10], is: u32::from(u16::from_be_bytes([e, f])) },
        ];
        let mut program = Vec::new();
        for comparison in comparisons.iter().chain(&sender) {
            program.extend(comparison.load);
            // If the comparison fails, the next instruction ends the program.
            program.push(Instruction { code: JUMP_EQUAL, jt: 1, jf: 0, k: comparison.is });
            program.push(NOTHING);
        }
        program.push(Instruction { code: RETURN, jt: 0, jf: 0, k: 0xffff });
        program
    }
}

const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const NOTHING: Instruction = Instruction { code: RETURN, jt: 0, jf: 0, k: 0 };
const LOAD_WORD_6: Instruction = Instruction { code: 0x20, jt: 0, jf: 0, k: 6 };
const LOAD_HALF_10: Instruction = Instruction { code: 0x28, jt: 0, jf: 0, k: 10 };
const LOAD_HALF_12: Instruction = Instruction { code: 0x28, jt: 0, jf: 0, k: 12 };

/// Instructions of classic BPF that load a value, and the expected value.
struct Comparison {
    load: &'static [Instruction],
    is: u32,
}

/// Returns the internet checksum (RFC 1071) of the parts. All but the last have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 =
        words.map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
