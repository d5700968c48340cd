//! The rules of the chain `admission`: how many connections a machine begins, and addresses outside that no machine is
//! to ask unless its definition names them.
//! Called by `table`.

use super::connections;
use super::expression::{
    ACCEPT, DROP, Expression, IIFNAME, IIFTYPE, IPV4, IPV6, L4PROTO, LINK, NETWORK, R0, TRANSPORT,
    connection, counter, equal, family, meta, payload, verdict, within,
};
use super::inet::{EGRESS_4, EGRESS_6, LINKS, TCP, UDP};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The metadata services of providers, which give the credentials of the host to whoever asks.
const METADATA_4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// The chain `admission`, after connections are tracked and before ports are translated.
pub(super) fn admission() -> Vec<Vec<Expression>> {
    let ethernet = || [meta(IIFTYPE, R0), equal(R0, &libc::ARPHRD_ETHER.to_ne_bytes())];
    let named = |version, offset, length, set| {
        let key = [payload(LINK, 6, 6, R0), payload(NETWORK, offset, length, R0 + 2), within(set, R0)];
        [&family(version)[..], &ethernet(), &key, &[verdict(ACCEPT)]].concat()
    };
    let dropped = [counter(), verdict(DROP)];
    let mut rules = vec![
        // Packets that no connection fits are judged as those that begin one.
        // ct state established,related accept
        [&connection(0, 2 | 4)[..], &[verdict(ACCEPT)]].concat(),
        connections::begin(),
        // ether saddr . ip daddr @egress4 accept
        named(IPV4, 16, 4, EGRESS_4),
        // ether saddr . ip6 daddr @egress6 accept
        named(IPV6, 24, 16, EGRESS_6),
    ];
    // Some providers have their name server at the same address.
    for protocol in [TCP, UDP] {
        // meta l4proto { tcp, udp } th dport 53 accept
        let dns = [payload(TRANSPORT, 2, 2, R0), equal(R0, &53_u16.to_be_bytes()), verdict(ACCEPT)];
        rules.push([&[meta(L4PROTO, R0), equal(R0, &[protocol])][..], &dns].concat());
    }
    let from_machine = || [meta(IIFNAME, R0), within(LINKS, R0)];
    for address in METADATA_4 {
        // ip daddr ADDRESS iifname @links counter drop
        let to = [payload(NETWORK, 16, 4, R0), equal(R0, &address.octets())];
        rules.push([&family(IPV4)[..], &to, &from_machine(), &dropped].concat());
    }
    for address in METADATA_6 {
        // ip6 daddr ADDRESS iifname @links counter drop
        let to = [payload(NETWORK, 24, 16, R0), equal(R0, &address.octets())];
        rules.push([&family(IPV6)[..], &to, &from_machine(), &dropped].concat());
    }
    rules
}
