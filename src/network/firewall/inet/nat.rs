//! The chains that translate addresses: published ports and DNS queries to machines and to the host's
//! resolver, and the sources of packets from machines. Called by `inet`.

use super::antispoof::PREFIX_64;
use super::sets::{
    ACTIVATION, ACTIVATION_ADDR4, ACTIVATION_ADDR6, DNAT_ADDR4, DNAT_ADDR6, DNAT4, DNAT6, DNS_REDIRECT,
    MACHINE_LINKS, MASQUERADE_SRC4, MASQUERADE_SRC6,
};
use crate::network::firewall::matches::{
    DPORT, IP_DADDR, IP_SADDR, IP6_DADDR, IP6_SADDR, TCP, TCP_FLAGS, ether_saddr, is_ethernet, l4proto,
    network, transport,
};
use crate::network::firewall::netlink::expression::{
    AFTER_ETHER, AFTER_IFNAME, Expression, R0, Rule, accept, ct_status_dnat, equal, fib, in_set, load,
    map_lookup, mask, masquerade, meta, nat, nfproto, not_equal, not_in_set, rule,
};
use crate::network::firewall::netlink::nfta::{NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR};
use crate::network::firewall::netlink::nlmsg::{IPV4, IPV6};
use crate::network::firewall::netlink::table::BaseChain;
use libc::{NFT_META_IIFNAME, NFT_META_L4PROTO, NFT_META_OIFNAME, NFT_NAT_DNAT, NFT_NAT_SNAT};
use std::ffi::c_int;
use std::net::{Ipv4Addr, Ipv6Addr};

const fn nat_chain(name: &'static str, hook: c_int, priority: c_int) -> BaseChain {
    BaseChain { name, kind: "nat", hook, priority }
}

/// Translates destinations of received packets.
pub(crate) const PREROUTING_DNAT: BaseChain =
    nat_chain("prerouting-dnat", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST);
/// Translates destinations of the host's own packets.
pub(crate) const OUTPUT_DNAT: BaseChain =
    nat_chain("output-dnat", libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_NAT_DST);
/// Translates sources of packets to the host.
pub(crate) const INPUT_SNAT: BaseChain =
    nat_chain("input-snat", libc::NF_INET_LOCAL_IN, libc::NF_IP_PRI_NAT_SRC);
/// Translates sources of packets that leave the host.
pub(crate) const POSTROUTING_MASQUERADE: BaseChain =
    nat_chain("postrouting-masquerade", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC);

/// The rules of `prerouting-dnat`: DNS queries to a machine's own gateway first, then published ports.
pub(crate) fn prerouting_dnat() -> Vec<Rule> {
    let (address, data) = (AFTER_ETHER, AFTER_ETHER + 3);
    let sender = [meta(NFT_META_IIFNAME, R0), ether_saddr(AFTER_IFNAME)];
    let destination = [
        network(IP_DADDR, 4, address),
        meta(NFT_META_L4PROTO, address + 1),
        transport(DPORT, 2, address + 2),
    ];
    let translate = [map_lookup(DNS_REDIRECT, R0, data), nat(NFT_NAT_DNAT, IPV4, data, Some(data + 1))];
    let mut rules = vec![
        // dnat ip to iifname . ether saddr . ip daddr . meta l4proto . th dport map @dns-redirect
        rule(&[&nfproto(IPV4), &is_ethernet(), &sender, &destination, &translate]),
    ];
    rules.extend(output_dnat());
    rules
}

/// The rules that leave the connections of a relay alone. It accepted them before the machine had started
/// and, on a host without other rules, before connection tracking began: their next packet is a new
/// connection for the kernel (`nf_conntrack_tcp_loose`), but not one that begins.
fn accept_relayed() -> [Rule; 3] {
    const FIN_SYN_RST_ACK: u8 = 0x17;
    const SYN: u8 = 0x02;
    let is_under_way = || [transport(TCP_FLAGS, 1, R0), mask(R0, &[FIN_SYN_RST_ACK]), not_equal(R0, &[SYN])];
    let port = |register| transport(DPORT, 2, register);
    let at = |family, address, set, port_register| {
        let key = [address, port(port_register), in_set(set, R0), accept()];
        rule(&[&nfproto(family), &l4proto(TCP, R0), &is_under_way(), &key])
    };
    [
        // tcp flags != syn / fin,syn,rst,ack ip daddr . tcp dport @activation-addr4 accept
        at(IPV4, network(IP_DADDR, 4, R0), ACTIVATION_ADDR4, R0 + 1),
        // tcp flags != syn / fin,syn,rst,ack ip6 daddr . tcp dport @activation-addr6 accept
        at(IPV6, network(IP6_DADDR, 16, R0), ACTIVATION_ADDR6, R0 + 4),
        // tcp flags != syn / fin,syn,rst,ack tcp dport @activation accept
        rule(&[&l4proto(TCP, R0), &is_under_way(), &[port(R0), in_set(ACTIVATION, R0), accept()]]),
    ]
}

/// The rules of `output-dnat`: a published port at an address of the host becomes a port of a machine.
pub(crate) fn output_dnat() -> Vec<Rule> {
    let to_host = || {
        let kind = fib(NFTA_FIB_F_DADDR, NFT_FIB_RESULT_ADDRTYPE);
        [kind, equal(R0, &u32::from(libc::RTN_LOCAL).to_ne_bytes())]
    };
    // The lengths of addresses are counted in registers.
    let dnat = |family, address: Option<Expression>, map, key_length: u32, address_length: u32| {
        let protocol = R0 + key_length;
        let data = protocol + 2;
        let port = [meta(NFT_META_L4PROTO, protocol), transport(DPORT, 2, protocol + 1)];
        let translate =
            [map_lookup(map, R0, data), nat(NFT_NAT_DNAT, family, data, Some(data + address_length))];
        rule(&[&nfproto(family), &to_host(), address.as_slice(), &port, &translate])
    };
    let translations = [
        // fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @dnat-addr4
        dnat(IPV4, Some(network(IP_DADDR, 4, R0)), DNAT_ADDR4, 1, 1),
        // meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @dnat4
        dnat(IPV4, None, DNAT4, 0, 1),
        // fib daddr type local dnat ip6 to ip6 daddr . meta l4proto . th dport map @dnat-addr6
        dnat(IPV6, Some(network(IP6_DADDR, 16, R0)), DNAT_ADDR6, 4, 4),
        // meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @dnat6
        dnat(IPV6, None, DNAT6, 0, 4),
    ];
    accept_relayed().into_iter().chain(translations).collect()
}

/// The rules of `input-snat`: redirected DNS queries have a loopback source, because many resolvers at
/// loopback addresses reply to local clients only.
pub(crate) fn input_snat() -> Vec<Rule> {
    let from_machine = [meta(NFT_META_IIFNAME, R0), in_set(MACHINE_LINKS, R0)];
    let to_loopback = [network(IP_DADDR, 1, R0), equal(R0, &[127])];
    let translate = [load(&Ipv4Addr::LOCALHOST.octets(), R0), nat(NFT_NAT_SNAT, IPV4, R0, None)];
    vec![
        // iifname @machine-links ip daddr 127.0.0.0/8 ct status dnat snat ip to 127.0.0.1
        rule(&[&nfproto(IPV4), &from_machine, &to_loopback, &ct_status_dnat(), &translate]),
    ]
}

/// The rules of `postrouting-masquerade`: packets from machines to other networks have the host's address. So
/// do packets to published ports from senders that the machine could not reply to: the host's loopback, and
/// machines, including itself.
pub(crate) fn postrouting_masquerade() -> Vec<Rule> {
    let outwards = || [meta(NFT_META_OIFNAME, R0), not_in_set(MACHINE_LINKS, R0)];
    let to_machine = [meta(NFT_META_OIFNAME, R0), in_set(MACHINE_LINKS, R0)];
    let published = || rule(&[&to_machine, &ct_status_dnat()]);
    let from4 = || [network(IP_SADDR, 4, R0), in_set(MASQUERADE_SRC4, R0), masquerade()];
    let from6 =
        || [network(IP6_SADDR, 16, R0), mask(R0, &PREFIX_64), in_set(MASQUERADE_SRC6, R0), masquerade()];
    let loopback4 = [network(IP_SADDR, 1, R0), equal(R0, &[127])];
    let loopback6 = [network(IP6_SADDR, 16, R0), equal(R0, &Ipv6Addr::LOCALHOST.octets())];
    vec![
        // oifname != @machine-links ip saddr @masquerade-src4 masquerade
        rule(&[&outwards(), &nfproto(IPV4), &from4()]),
        // oifname != @machine-links ip6 saddr & ffff:ffff:ffff:ffff:: == @masquerade-src6 masquerade
        rule(&[&outwards(), &nfproto(IPV6), &from6()]),
        // ip saddr 127.0.0.0/8 oifname @machine-links ct status dnat masquerade
        rule(&[&nfproto(IPV4), &loopback4, &published(), &[masquerade()]]),
        // ip6 saddr ::1 oifname @machine-links ct status dnat masquerade
        rule(&[&nfproto(IPV6), &loopback6, &published(), &[masquerade()]]),
        // oifname @machine-links ct status dnat ip saddr @masquerade-src4 masquerade
        rule(&[&nfproto(IPV4), &published(), &from4()]),
        // oifname @machine-links ct status dnat ip6 saddr & ffff:ffff:ffff:ffff:: == @masquerade-src6
        // masquerade
        rule(&[&nfproto(IPV6), &published(), &from6()]),
    ]
}
