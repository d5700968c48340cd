//! The chains `input` and `forward`: packets from machines to the host, and packets between machines and
//! networks. Called by `inet`.

use super::antispoof_extra;
use super::sets::{EXTRA_LINKS, MACHINE_LINKS, SAME_ZONE, ZONE_BRIDGES};
use crate::network::firewall::matches::{DPORT, SPORT, TCP, UDP, l4proto, port};
use crate::network::firewall::netlink::expression::{
    AFTER_IFNAME, R0, Rule, accept, counter_drop, ct_status_dnat, established, in_set, meta, not_in_set, rule,
};
use crate::network::firewall::netlink::table::BaseChain;
use libc::{NFT_META_IIFNAME, NFT_META_OIFNAME};

/// The chain of packets to the host.
pub(crate) const INPUT: BaseChain = BaseChain {
    name: "input",
    kind: "filter",
    hook: libc::NF_INET_LOCAL_IN,
    priority: libc::NF_IP_PRI_FILTER,
};

/// The chain of forwarded packets.
pub(crate) const FORWARD: BaseChain = BaseChain {
    name: "forward",
    kind: "filter",
    hook: libc::NF_INET_FORWARD,
    priority: libc::NF_IP_PRI_FILTER,
};

/// The rules of `input`: the host does not resolve names by asking machines. Neither queries nor replies of
/// multicast name protocols reach it.
pub(crate) fn input() -> Vec<Rule> {
    const NETBIOS: u16 = 137;
    const MULTICAST_DNS: u16 = 5353;
    const LLMNR: u16 = 5355;
    let mut rules = vec![
        // ct state established,related accept
        rule(&[&established(), &[accept()]]),
    ];
    for set in [MACHINE_LINKS, EXTRA_LINKS] {
        let from = [meta(NFT_META_IIFNAME, R0), in_set(set, R0)];
        let dropped = |protocol, offset, number| {
            rule(&[&from, &l4proto(protocol, R0), &port(offset, number, R0), &counter_drop()])
        };
        for number in [NETBIOS, MULTICAST_DNS, LLMNR] {
            rules.extend([
                // iifname SET tcp sport PORT counter drop
                dropped(TCP, SPORT, number),
                // iifname SET udp sport PORT counter drop
                dropped(UDP, SPORT, number),
                // iifname SET tcp dport PORT counter drop
                dropped(TCP, DPORT, number),
                // iifname SET udp dport PORT counter drop
                dropped(UDP, DPORT, number),
            ]);
        }
    }
    rules
}

/// The rules of `forward`: packets from outside reach a machine only as replies or by a published port.
pub(crate) fn forward() -> Vec<Rule> {
    let from = |set| [meta(NFT_META_IIFNAME, R0), in_set(set, R0)];
    let to = |set| [meta(NFT_META_OIFNAME, R0), in_set(set, R0)];
    let in_zone = [meta(NFT_META_IIFNAME, R0), meta(NFT_META_OIFNAME, AFTER_IFNAME), in_set(SAME_ZONE, R0)];
    let [from_extra, to_extra] = antispoof_extra::forward();
    vec![
        // First, because it matches most packets.
        // ct state established,related accept
        rule(&[&established(), &[accept()]]),
        from_extra,
        to_extra,
        // oifname != @machine-links accept
        vec![meta(NFT_META_OIFNAME, R0), not_in_set(MACHINE_LINKS, R0), accept()],
        // ct status dnat accept
        rule(&[&ct_status_dnat(), &[accept()]]),
        // iifname . oifname @same-zone accept
        rule(&[&in_zone, &[accept()]]),
        // A zone has no connectivity with other machines.
        // iifname @zone-bridges counter drop
        rule(&[&from(ZONE_BRIDGES), &counter_drop()]),
        // oifname @zone-bridges counter drop
        rule(&[&to(ZONE_BRIDGES), &counter_drop()]),
        // iifname @machine-links accept
        rule(&[&from(MACHINE_LINKS), &[accept()]]),
        // oifname @machine-links counter drop
        rule(&[&to(MACHINE_LINKS), &counter_drop()]),
    ]
}
