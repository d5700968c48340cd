//! The chain `admission`: the limit of connections that a machine opens, and metadata services that a machine
//! reaches only if `network.egress` names them. Called by `inet`.

use super::connections;
use super::policy_chains::allowed_destinations;
use super::sets::MACHINE_LINKS;
use crate::network::firewall::matches::{DNS, DPORT, IP_DADDR, IP6_DADDR, TCP, UDP, l4proto, network, port};
use crate::network::firewall::netlink::expression::{
    R0, Rule, accept, counter_drop, equal, established, in_set, meta, nfproto, rule,
};
use crate::network::firewall::netlink::nlmsg::{IPV4, IPV6};
use crate::network::firewall::netlink::table::BaseChain;
use libc::NFT_META_IIFNAME;
use std::net::{Ipv4Addr, Ipv6Addr};

/// After connection tracking, before the translation of published ports.
pub(crate) const CHAIN: BaseChain = BaseChain {
    name: "admission",
    kind: "filter",
    hook: libc::NF_INET_PRE_ROUTING,
    priority: libc::NF_IP_PRI_MANGLE - 10,
};

/// The metadata services of cloud providers, which return the credentials of the host to every client.
const METADATA4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// The rules of the chain.
pub(crate) fn rules() -> Vec<Rule> {
    let mut rules = vec![
        // Packets that connection tracking finds invalid continue, like those of new connections.
        // ct state established,related accept
        rule(&[&established(), &[accept()]]),
        connections::jump(),
    ];
    rules.extend(allowed_destinations());
    // Some providers have their DNS server at the same address.
    rules.extend([
        // tcp dport 53 accept
        rule(&[&l4proto(TCP, R0), &port(DPORT, DNS, R0), &[accept()]]),
        // udp dport 53 accept
        rule(&[&l4proto(UDP, R0), &port(DPORT, DNS, R0), &[accept()]]),
    ]);
    let from_machine = [meta(NFT_META_IIFNAME, R0), in_set(MACHINE_LINKS, R0)];
    for address in METADATA4 {
        // ip daddr ADDRESS iifname @machine-links counter drop
        let to = [network(IP_DADDR, 4, R0), equal(R0, &address.octets())];
        rules.push(rule(&[&nfproto(IPV4), &to, &from_machine, &counter_drop()]));
    }
    for address in METADATA6 {
        // ip6 daddr ADDRESS iifname @machine-links counter drop
        let to = [network(IP6_DADDR, 16, R0), equal(R0, &address.octets())];
        rules.push(rule(&[&nfproto(IPV6), &to, &from_machine, &counter_drop()]));
    }
    rules
}
