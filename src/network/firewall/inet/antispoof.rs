//! The chain `antispoof`: packets from the links of machines have the machine's own source address, and no
//! packet from a network interface is for the loopback addresses of the host. Called by `inet`.

use super::antispoof_extra;
use super::sets::{ANTISPOOF_DROPS, ANTISPOOF_SRC4, ANTISPOOF_SRC6, MACHINE_LINKS, MACHINE_MACS};
use crate::network::firewall::matches::{
    ICMPV6, IP_DADDR, IP_SADDR, IP6_DADDR, IP6_SADDR, ND_REDIRECT, ND_ROUTER_ADVERT, drop_counted,
    ether_saddr, from_host_address, icmpv6, is_ethernet, is_link_local, l4proto, network, to_dhcp_server,
};
use crate::network::firewall::netlink::element::padded;
use crate::network::firewall::netlink::expression::{
    AFTER_ETHER, AFTER_IFNAME, Expression, R0, Rule, accept, counter_drop, equal, in_set, mask, meta,
    nfproto, not_equal, not_in_set, rule,
};
use crate::network::firewall::netlink::nlmsg::{IPV4, IPV6};
use crate::network::firewall::netlink::table::BaseChain;
use libc::{NFT_META_IIFNAME, NFT_META_PKTTYPE};
use std::net::Ipv6Addr;

/// It precedes connection tracking: a dropped packet creates no connection.
pub(crate) const CHAIN: BaseChain = BaseChain {
    name: "antispoof",
    kind: "filter",
    hook: libc::NF_INET_PRE_ROUTING,
    priority: libc::NF_IP_PRI_RAW,
};

/// The prefixes of the names of machine links and of zone bridges.
pub(crate) const LINK_PREFIXES: [&str; 2] = ["ve-", "vz-"];

/// The mask of an IPv6 prefix of 64 bits.
pub(crate) const PREFIX_64: [u8; 16] = [255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0];

/// The rules of the chain.
pub(crate) fn rules() -> Vec<Rule> {
    let mut rules = loopback();
    rules.push(antispoof_extra::jump());
    rules.extend(links());
    rules
}

/// Published ports are translated before routing, so routing does not see that such a packet came from a
/// network interface.
fn loopback() -> Vec<Rule> {
    let localhost = Ipv6Addr::LOCALHOST.octets();
    let not_from_machine = || [meta(NFT_META_IIFNAME, R0), not_in_set(MACHINE_LINKS, R0)];
    let ipv4 = |offset| {
        let is_loopback = [network(offset, 1, R0), equal(R0, &[127])];
        rule(&[&nfproto(IPV4), &is_loopback, &not_from_machine(), &counter_drop()])
    };
    let ipv6 = |offset| {
        let is_loopback = [network(offset, 16, R0), equal(R0, &localhost)];
        rule(&[&nfproto(IPV6), &is_loopback, &not_from_machine(), &counter_drop()])
    };
    vec![
        // iifname "lo" accept
        vec![meta(NFT_META_IIFNAME, R0), equal(R0, &padded("lo")), accept()],
        // ip daddr 127.0.0.0/8 iifname != @machine-links counter drop
        ipv4(IP_DADDR),
        // ip saddr 127.0.0.0/8 iifname != @machine-links counter drop
        ipv4(IP_SADDR),
        // ip6 daddr ::1 iifname != @machine-links counter drop
        ipv6(IP6_DADDR),
        // ip6 saddr ::1 iifname != @machine-links counter drop
        ipv6(IP6_SADDR),
    ]
}

/// `iifname . ether saddr`, the start of a key.
fn sender() -> Rule {
    rule(&[&is_ethernet(), &[meta(NFT_META_IIFNAME, R0), ether_saddr(AFTER_IFNAME)]])
}

/// `iifname . ether saddr @machine-macs MATCH`: packets from a machine's own link-layer address.
fn from_machine(family: u8, matches: &[Expression]) -> Rule {
    rule(&[&nfproto(family), &sender(), &[in_set(MACHINE_MACS, R0)], matches])
}

/// Packets from the links of machines.
fn links() -> Vec<Rule> {
    let dropped = |matches: &[Expression]| {
        rule(&[&from_machine(IPV6, matches), &drop_counted(NFT_META_IIFNAME, ANTISPOOF_DROPS)])
    };
    let accepted = |family, matches: &[Expression]| rule(&[&from_machine(family, matches), &[accept()]]);
    // Published ports make the host reply to its own loopback addresses on these links.
    let to_no_loopback = || [network(IP_DADDR, 1, R0), not_equal(R0, &[127])];
    let other_names =
        LINK_PREFIXES.map(|prefix| [meta(NFT_META_IIFNAME, R0), not_equal(R0, prefix.as_bytes())]);
    let source4 = [network(IP_SADDR, 4, AFTER_ETHER), in_set(ANTISPOOF_SRC4, R0), accept()];
    let source6 = [
        network(IP6_SADDR, 16, AFTER_ETHER),
        mask(AFTER_ETHER, &PREFIX_64),
        in_set(ANTISPOOF_SRC6, R0),
        accept(),
    ];
    let no_address4 = [network(IP_SADDR, 4, AFTER_ETHER), equal(AFTER_ETHER, &[0; 4])];
    let no_address6 = [network(IP6_SADDR, 16, AFTER_ETHER), equal(AFTER_ETHER, &[0; 16])];
    let dhcp_request = rule(&[&no_address4, &to_dhcp_server(AFTER_ETHER), &to_no_loopback()]);
    let not_multicast = [meta(NFT_META_PKTTYPE, R0), not_equal(R0, &[libc::PACKET_MULTICAST])];
    vec![
        // iifname != "ve-*" iifname != "vz-*" accept
        rule(&[&other_names.concat(), &[accept()]]),
        // ip daddr != 127.0.0.0/8 iifname . ether saddr . ip saddr @antispoof-src4 accept
        rule(&[&nfproto(IPV4), &to_no_loopback(), &sender(), &source4]),
        // The host's end of the link has an address of the machine's prefix.
        // meta nfproto ipv6 iifname . ether saddr @machine-macs fib saddr type local iifname @antispoof-drops
        // counter drop
        dropped(&from_host_address()),
        // iifname . ether saddr . ip6 saddr & ffff:ffff:ffff:ffff:: @antispoof-src6 accept
        rule(&[&nfproto(IPV6), &sender(), &source6]),
        // Links of other programs with such a name.
        // iifname != @machine-links accept
        vec![meta(NFT_META_IIFNAME, R0), not_in_set(MACHINE_LINKS, R0), accept()],
        // iifname . ether saddr @machine-macs ip saddr 0.0.0.0 udp dport 67 ip daddr != 127.0.0.0/8 accept
        accepted(IPV4, &dhcp_request),
        // No machine is a router of its host.
        // iifname . ether saddr @machine-macs icmpv6 type nd-router-advert iifname @antispoof-drops counter
        // drop
        dropped(&icmpv6(ND_ROUTER_ADVERT, AFTER_ETHER)),
        // iifname . ether saddr @machine-macs icmpv6 type nd-redirect iifname @antispoof-drops counter drop
        dropped(&icmpv6(ND_REDIRECT, AFTER_ETHER)),
        // Neighbour discovery uses link-local and unspecified addresses; routers do not forward them.
        // meta nfproto ipv6 iifname . ether saddr @machine-macs @nh,64,16 & 0xffc0 == 0xfe80 accept
        accepted(IPV6, &is_link_local(IP6_SADDR, AFTER_ETHER)),
        // iifname . ether saddr @machine-macs ip6 saddr :: meta l4proto ipv6-icmp accept
        accepted(IPV6, &rule(&[&no_address6, &l4proto(ICMPV6, AFTER_ETHER)])),
        // The host's own multicast comes back by its link: the last rule drops it without a count.
        // meta pkttype != multicast iifname @antispoof-drops
        rule(&[&not_multicast, &[meta(NFT_META_IIFNAME, R0), in_set(ANTISPOOF_DROPS, R0)]]),
        // counter drop
        counter_drop().to_vec(),
    ]
}
