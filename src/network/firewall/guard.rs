//! The rules of the chain `guard`: packets from the links of machines carry the machine's own source address, and
//! no packet from a wire is for the loopback addresses of the host. Called by `table`.

use super::element::padded;
use super::expression::{
    ACCEPT, ADDRESS_AT, DROP, ETHER_AT, Expression, IIFNAME, IIFTYPE, IPV4, IPV6, L4PROTO, LINK, MULTICAST,
    NETWORK, PKTTYPE, R0, TRANSPORT, at_least, at_most, counter, differs, equal, expression, family, mask,
    meta, outside, payload, verdict, within,
};
use super::extras;
use super::inet::{FORGED, LINKS, NETWORK_PART, PREFIXES, SENDERS, SOURCES_4, SOURCES_6, UDP};
use super::message::Attributes;
use std::net::Ipv6Addr;

/// The protocol number of ICMPv6.
pub(super) const ICMPV6: u8 = 58;

/// The chain `guard`. It precedes connection tracking: a dropped packet creates no connection.
pub(super) fn guard() -> Vec<Vec<Expression>> {
    let mut rules = loopback();
    rules.push(extras::jump());
    rules.extend(links());
    rules
}

/// Published ports are translated before routing, so routing never sees that such a packet came from a wire.
fn loopback() -> Vec<Vec<Expression>> {
    let own = Ipv6Addr::LOCALHOST.octets();
    let refused = |version: u8, is_so: [Expression; 2]| {
        let counted = [meta(IIFNAME, R0), outside(LINKS, R0), counter(), verdict(DROP)];
        [&family(version)[..], &is_so, &counted].concat()
    };
    vec![
        // iifname "lo" accept
        vec![meta(IIFNAME, R0), equal(R0, &padded("lo")), verdict(ACCEPT)],
        // ip daddr 127.0.0.0/8 iifname != @links counter drop
        refused(IPV4, [payload(NETWORK, 16, 1, R0), equal(R0, &[127])]),
        // ip saddr 127.0.0.0/8 iifname != @links counter drop
        refused(IPV4, [payload(NETWORK, 12, 1, R0), equal(R0, &[127])]),
        // ip6 daddr ::1 iifname != @links counter drop
        refused(IPV6, [payload(NETWORK, 24, 16, R0), equal(R0, &own)]),
        // ip6 saddr ::1 iifname != @links counter drop
        refused(IPV6, [payload(NETWORK, 8, 16, R0), equal(R0, &own)]),
    ]
}

/// The interface and the link-layer address that a packet came by, as the beginning of a key.
fn sender() -> Vec<Expression> {
    let ethernet = [meta(IIFTYPE, R0), equal(R0, &libc::ARPHRD_ETHER.to_ne_bytes())];
    ethernet.into_iter().chain([meta(IIFNAME, R0), payload(LINK, 6, 6, ETHER_AT)]).collect()
}

/// Packets from the own link-layer address of a machine that match.
fn known(version: u8, is_so: &[Expression]) -> Vec<Expression> {
    [&family(version)[..], &sender(), &[within(SENDERS, R0)], is_so].concat()
}

/// The source or destination is an address of the host.
pub(super) fn of_host(flags: u32) -> [Expression; 2] {
    [fib_type(flags), equal(R0, &u32::from(libc::RTN_LOCAL).to_ne_bytes())]
}

/// `NFTA_FIB_F_SADDR`: the source address is looked up.
pub(super) const NFTA_FIB_F_SADDR: u32 = 1 << 0;
/// `NFTA_FIB_F_DADDR`: the destination address is looked up.
pub(super) const NFTA_FIB_F_DADDR: u32 = 1 << 1;

/// Loads the type of an address (`RTN_*`).
pub(super) fn fib_type(flags: u32) -> Expression {
    const NFTA_FIB_DREG: u16 = 1;
    const NFTA_FIB_RESULT: u16 = 2;
    const NFTA_FIB_FLAGS: u16 = 3;
    const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
    let data = Attributes::new().number(NFTA_FIB_DREG, R0).number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
    expression("fib", &data.number(NFTA_FIB_FLAGS, flags))
}

/// An ICMPv6 message with a type from `first` to `last`.
pub(super) fn icmpv6(first: u8, last: u8) -> [Expression; 5] {
    let is_icmpv6 = [meta(L4PROTO, ADDRESS_AT), equal(ADDRESS_AT, &[ICMPV6])];
    let [load, compare] = is_icmpv6;
    let kind = payload(TRANSPORT, 0, 1, ADDRESS_AT);
    [load, compare, kind, at_least(ADDRESS_AT, &[first]), at_most(ADDRESS_AT, &[last])]
}

/// Router advertisements and redirects: no machine is a router of its host.
pub(super) fn router_messages() -> [[Expression; 5]; 2] {
    const ND_ROUTER_ADVERT: u8 = 134;
    const ND_REDIRECT: u8 = 137;
    [icmpv6(ND_ROUTER_ADVERT, ND_ROUTER_ADVERT), icmpv6(ND_REDIRECT, ND_REDIRECT)]
}

/// Counts in the element of the interface, and drops.
pub(super) fn forged() -> [Expression; 4] {
    [meta(IIFNAME, R0), within(FORGED, R0), counter(), verdict(DROP)]
}

/// Packets from the links of machines.
fn links() -> Vec<Vec<Expression>> {
    // Forwarded ports make the host answer its own loopback addresses on these links.
    let to_no_loopback = || [payload(NETWORK, 16, 1, R0), differs(R0, &[127])];
    let dropped = |is_so: &[Expression]| [known(IPV6, is_so), forged().to_vec()].concat();
    let accepted = |version, is_so: &[Expression]| [known(version, is_so), vec![verdict(ACCEPT)]].concat();
    let no_prefix = PREFIXES.iter().map(|prefix| differs(R0, prefix.as_bytes()));
    let link_local = [
        payload(NETWORK, 8, 2, ADDRESS_AT),
        mask(ADDRESS_AT, &[0xff, 0xc0]),
        equal(ADDRESS_AT, &[0xfe, 0x80]),
    ];
    let unspecified = [
        payload(NETWORK, 8, 16, ADDRESS_AT),
        equal(ADDRESS_AT, &[0; 16]),
        meta(L4PROTO, ADDRESS_AT),
        equal(ADDRESS_AT, &[ICMPV6]),
    ];
    let asks_by_dhcp = [
        &[payload(NETWORK, 12, 4, ADDRESS_AT), equal(ADDRESS_AT, &[0; 4])][..],
        &[meta(L4PROTO, ADDRESS_AT), equal(ADDRESS_AT, &[UDP])],
        &[payload(TRANSPORT, 2, 2, ADDRESS_AT), equal(ADDRESS_AT, &67_u16.to_be_bytes())],
        &to_no_loopback(),
    ];
    let [advertises, redirects] = router_messages();
    vec![
        // iifname != { "ve-*", "vz-*" } accept
        [meta(IIFNAME, R0)].into_iter().chain(no_prefix).chain([verdict(ACCEPT)]).collect(),
        // ip daddr != 127.0.0.0/8 iifname . ether saddr . ip saddr @sources4 accept
        [&family(IPV4)[..], &to_no_loopback(), &sender()]
            .concat()
            .into_iter()
            .chain([payload(NETWORK, 12, 4, ADDRESS_AT), within(SOURCES_4, R0), verdict(ACCEPT)])
            .collect(),
        // The host's end of the link has an address of the machine's prefix.
        // iifname . ether saddr @senders fib saddr type local iifname @forged counter drop
        dropped(&of_host(NFTA_FIB_F_SADDR)),
        // iifname . ether saddr . ip6 saddr & ffff:ffff:ffff:ffff:: @sources6 accept
        [&family(IPV6)[..], &sender()]
            .concat()
            .into_iter()
            .chain([payload(NETWORK, 8, 16, ADDRESS_AT), mask(ADDRESS_AT, &NETWORK_PART)])
            .chain([within(SOURCES_6, R0), verdict(ACCEPT)])
            .collect(),
        // Links of other programs with such a name.
        // iifname != @links accept
        vec![meta(IIFNAME, R0), outside(LINKS, R0), verdict(ACCEPT)],
        // iifname . ether saddr @senders ip saddr 0.0.0.0 udp dport 67 ip daddr != 127.0.0.0/8 accept
        accepted(IPV4, &asks_by_dhcp.concat()),
        // iifname . ether saddr @senders icmpv6 type nd-router-advert iifname @forged counter drop
        dropped(&advertises),
        // iifname . ether saddr @senders icmpv6 type nd-redirect iifname @forged counter drop
        dropped(&redirects),
        // Neighbour discovery uses link-local and unspecified addresses; routers do not forward them.
        // iifname . ether saddr @senders ip6 saddr fe80::/10 accept
        accepted(IPV6, &link_local),
        // iifname . ether saddr @senders ip6 saddr :: meta l4proto ipv6-icmp accept
        accepted(IPV6, &unspecified),
        // The host's own multicast comes back by its link; it is dropped without a count.
        // meta pkttype != multicast iifname @forged
        vec![meta(PKTTYPE, R0), differs(R0, &[MULTICAST]), meta(IIFNAME, R0), within(FORGED, R0)],
        // counter drop
        vec![counter(), verdict(DROP)],
    ]
}
