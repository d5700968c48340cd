//! Parts of rules that chains of both tables share: protocols, ports, link-local addresses and rate limits.
//! Called by the files of chains.

use super::netlink::expression::{
    Expression, R0, Rule, at_least, at_most, counter_drop, equal, expression, fib, in_set, mask, meta,
    payload, rule,
};
use super::netlink::nfta::{
    NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_SADDR, NFTA_OBJREF_SET_NAME, NFTA_OBJREF_SET_SREG,
};
use super::netlink::nlmsg::AttributeBuffer;
use libc::{
    NFT_META_IIFTYPE, NFT_META_L4PROTO, NFT_PAYLOAD_LL_HEADER, NFT_PAYLOAD_NETWORK_HEADER,
    NFT_PAYLOAD_TRANSPORT_HEADER,
};
use std::ffi::c_int;

/// The number of TCP.
pub(super) const TCP: u8 = libc::IPPROTO_TCP as u8;
/// The number of UDP.
pub(super) const UDP: u8 = libc::IPPROTO_UDP as u8;
/// The number of ICMPv6.
pub(super) const ICMPV6: u8 = libc::IPPROTO_ICMPV6 as u8;
/// The port of a DHCP server.
pub(super) const DHCP_SERVER: u16 = 67;
/// The port of a DNS server.
pub(super) const DNS: u16 = 53;
/// A router advertisement (RFC 4861).
pub(super) const ND_ROUTER_ADVERT: u8 = 134;
/// A neighbour advertisement (RFC 4861).
pub(super) const ND_NEIGHBOR_ADVERT: u8 = 136;
/// A redirect (RFC 4861).
pub(super) const ND_REDIRECT: u8 = 137;
/// Multicast listener discovery and neighbour discovery (RFC 2710, RFC 4861), first and last type.
pub(super) const DISCOVERY: [u8; 2] = [130, 137];
/// Multicast listener discovery, version 2 (RFC 3810).
pub(super) const MLD2_LISTENER_REPORT: u8 = 143;

/// The offsets of addresses in the headers of IP and Ethernet, bytes.
pub(super) const IP_SADDR: u32 = 12;
pub(super) const IP_DADDR: u32 = 16;
pub(super) const IP6_SADDR: u32 = 8;
pub(super) const IP6_DADDR: u32 = 24;
pub(super) const ETHER_DADDR: u32 = 0;
pub(super) const ETHER_SADDR: u32 = 6;
/// The offsets of ports in the headers of TCP and UDP, bytes.
pub(super) const SPORT: u32 = 0;
pub(super) const DPORT: u32 = 2;
/// The offset of the flags in the header of TCP, bytes.
pub(super) const TCP_FLAGS: u32 = 13;

/// Loads bytes of the IP header.
pub(super) fn network(offset: u32, length: u32, register: u32) -> Expression {
    payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length, register)
}

/// Loads bytes of the transport header.
pub(super) fn transport(offset: u32, length: u32, register: u32) -> Expression {
    payload(NFT_PAYLOAD_TRANSPORT_HEADER, offset, length, register)
}

/// Loads the source link-layer address.
pub(super) fn ether_saddr(register: u32) -> Expression {
    payload(NFT_PAYLOAD_LL_HEADER, ETHER_SADDR, 6, register)
}

/// `meta l4proto PROTOCOL`, by way of a register.
pub(super) fn l4proto(protocol: u8, register: u32) -> [Expression; 2] {
    [meta(NFT_META_L4PROTO, register), equal(register, &[protocol])]
}

/// `th sport PORT` or `th dport PORT`, by way of a register.
pub(super) fn port(offset: u32, port: u16, register: u32) -> [Expression; 2] {
    [transport(offset, 2, register), equal(register, &port.to_be_bytes())]
}

/// `udp dport 67`: requests of DHCP clients.
pub(super) fn to_dhcp_server(register: u32) -> Rule {
    rule(&[&l4proto(UDP, register), &port(DPORT, DHCP_SERVER, register)])
}

/// The packet came from a link with Ethernet headers. nft(8) does not list it before `ether saddr`.
pub(super) fn is_ethernet() -> [Expression; 2] {
    [meta(NFT_META_IIFTYPE, R0), equal(R0, &libc::ARPHRD_ETHER.to_ne_bytes())]
}

/// `icmpv6 type TYPE`, without its family, by way of a register.
pub(super) fn icmpv6(kind: u8, register: u32) -> Rule {
    rule(&[&l4proto(ICMPV6, register), &[transport(0, 1, register), equal(register, &[kind])]])
}

/// `icmpv6 type 130-137`, without its family, by way of a register.
pub(super) fn icmpv6_discovery(register: u32) -> Rule {
    let [first, last] = DISCOVERY;
    let kind = [transport(0, 1, register), at_least(register, &[first]), at_most(register, &[last])];
    rule(&[&l4proto(ICMPV6, register), &kind])
}

/// An address of an IPv6 header is in fe80::/10.
pub(super) fn is_link_local(offset: u32, register: u32) -> [Expression; 3] {
    [network(offset, 2, register), mask(register, &[0xff, 0xc0]), equal(register, &[0xfe, 0x80])]
}

/// `fib saddr type local`: the source is an address of the host.
pub(super) fn from_host_address() -> [Expression; 2] {
    let kind = fib(NFTA_FIB_F_SADDR, NFT_FIB_RESULT_ADDRTYPE);
    [kind, equal(R0, &u32::from(libc::RTN_LOCAL).to_ne_bytes())]
}

/// `iifname @SET counter drop` or `oifname @SET counter drop`: the element of the interface counts too.
pub(super) fn drop_counted(interface: c_int, set: &str) -> Rule {
    rule(&[&[meta(interface, R0), in_set(set, R0)], &counter_drop()])
}

/// Drops packets above the limit of their interface, of interfaces with this prefix (`NFT_META_IIFNAME` or
/// `NFT_META_OIFNAME`).
pub(super) fn rate(interface: c_int, prefix: &str, limits: &str) -> Rule {
    let object = AttributeBuffer::new().number(NFTA_OBJREF_SET_SREG, R0).text(NFTA_OBJREF_SET_NAME, limits);
    let has_prefix = [meta(interface, R0), equal(R0, prefix.as_bytes())];
    let is_above = [meta(interface, R0), expression("objref", &object)];
    rule(&[&has_prefix, &is_above, &counter_drop()])
}
