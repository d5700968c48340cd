//! The table `bridge coracle`: frames of the ports of zones, so that no machine of a zone sends with the
//! address of another, and traffic policies hold between machines of a zone. It exists while a zone exists.
//! Called by `firewall`; the names of sets are used by `part`.

use super::matches::{
    DHCP_SERVER, ETHER_DADDR, ETHER_SADDR, IP_SADDR, IP6_DADDR, IP6_SADDR, MLD2_LISTENER_REPORT,
    ND_NEIGHBOR_ADVERT, ND_REDIRECT, ND_ROUTER_ADVERT, SPORT, UDP, drop_counted, ether_saddr, icmpv6,
    icmpv6_discovery, is_link_local, l4proto, network, port, rate, to_dhcp_server, transport,
};
use super::netlink::expression::{
    AFTER_ETHER, AFTER_IFNAME, Expression, R0, Rule, accept, counter_drop, drop, equal, in_set, load,
    map_lookup, mask, meta, not_in_set, payload, rule, set_meta, set_payload,
};
use super::netlink::nlmsg::{BRIDGE, Batch, IfExists, Operation};
use super::netlink::table::{
    self, BaseChain, ETHER, IFNAME, IPV4, IPV6, base_chain, counting_set, limit_map, map, set,
};
use libc::{
    NF_BR_FORWARD, NF_BR_LOCAL_IN, NF_BR_POST_ROUTING, NF_BR_PRE_ROUTING, NF_BR_PRI_BRNF,
    NF_BR_PRI_NAT_DST_BRIDGED, NFT_META_IIFNAME, NFT_META_OIFNAME, NFT_META_PKTTYPE, NFT_META_PROTOCOL,
    NFT_PAYLOAD_LL_HEADER,
};
use std::ffi::c_int;

/// Ports of the bridges of zones.
pub(super) const ZONE_PORTS: &str = "zone-ports";
/// Input and output port of a frame that a port would send back.
pub(super) const SAME_PORT: &str = "same-port";
/// The IPv4 source addresses of each machine: port, link-layer address, address.
pub(super) const ANTISPOOF_SRC4: &str = "antispoof-src4";
/// The IPv6 source addresses of each machine.
pub(super) const ANTISPOOF_SRC6: &str = "antispoof-src6";
/// Counts the dropped frames of each port of a zone.
pub(super) const ANTISPOOF_DROPS: &str = "antispoof-drops";
/// Ports of machines at bridges of the host. Counts their router messages to the host.
pub(super) const HOST_BRIDGE_PORTS: &str = "host-bridge-ports";
/// Machines with `network.egress`, by link-layer address. Counts dropped frames.
pub(super) const EGRESS_RESTRICTED: &str = "egress-restricted";
/// Sends frames from and to a restricted machine to the host, which tracks connections and forwards them: the
/// machine's link-layer address to the bridge's.
pub(super) const VIA_HOST: &str = "via-host";
/// Restricted machines that reach all of their zone.
pub(super) const ZONE_REACH: &str = "zone-reach";
/// Limits of traffic to machines: port to limit.
pub(super) const RATES_IN: &str = "rates-in";
/// Limits of traffic from machines: port to limit.
pub(super) const RATES_OUT: &str = "rates-out";

/// The prefix of the names of ports.
const PORT_PREFIX: &str = "vb-";
/// The port of a DHCPv6 server.
const DHCPV6_SERVER: u16 = 547;

const fn filter(name: &'static str, hook: c_int, priority: c_int) -> BaseChain {
    BaseChain { name, kind: "filter", hook, priority }
}

/// Before all other chains of bridges.
const ANTISPOOF: BaseChain = filter("antispoof", NF_BR_PRE_ROUTING, NF_BR_PRI_NAT_DST_BRIDGED);
/// After `antispoof`: forged frames do not count against the rate.
const RATE_OUT: BaseChain = filter("rate-out", NF_BR_PRE_ROUTING, NF_BR_PRI_NAT_DST_BRIDGED + 5);
/// Before `bridge-nf-call-iptables` filters bridges like routers.
const EGRESS: BaseChain = filter("egress", NF_BR_PRE_ROUTING, NF_BR_PRI_NAT_DST_BRIDGED + 10);
const ROUTER_MESSAGES: BaseChain = filter("router-messages", NF_BR_LOCAL_IN, NF_BR_PRI_NAT_DST_BRIDGED);
const HAIRPIN: BaseChain = filter("hairpin", NF_BR_FORWARD, NF_BR_PRI_NAT_DST_BRIDGED);
const RATE_IN: BaseChain = filter("rate-in", NF_BR_POST_ROUTING, NF_BR_PRI_BRNF);

/// The chains and their rules.
fn base_chains() -> [(BaseChain, Vec<Rule>); 6] {
    [
        (ANTISPOOF, antispoof()),
        // iifname "vb-*" limit name iifname map @rates-out counter drop
        (RATE_OUT, vec![rate(NFT_META_IIFNAME, PORT_PREFIX, RATES_OUT)]),
        (EGRESS, egress()),
        (ROUTER_MESSAGES, router_messages()),
        (HAIRPIN, hairpin()),
        // oifname "vb-*" limit name oifname map @rates-in counter drop
        (RATE_IN, vec![rate(NFT_META_OIFNAME, PORT_PREFIX, RATES_IN)]),
    ]
}

/// Creates the table. The transaction fails with EEXIST if it exists.
pub(super) fn create(batch: &mut Batch) {
    table::table(batch, BRIDGE, Operation::NewTable, IfExists::Fail);
    set(batch, BRIDGE, ZONE_PORTS, &[IFNAME]);
    set(batch, BRIDGE, SAME_PORT, &[IFNAME, IFNAME]);
    set(batch, BRIDGE, ANTISPOOF_SRC4, &[IFNAME, ETHER, IPV4]);
    set(batch, BRIDGE, ANTISPOOF_SRC6, &[IFNAME, ETHER, IPV6]);
    counting_set(batch, BRIDGE, ANTISPOOF_DROPS, &[IFNAME]);
    counting_set(batch, BRIDGE, HOST_BRIDGE_PORTS, &[IFNAME]);
    counting_set(batch, BRIDGE, EGRESS_RESTRICTED, &[ETHER]);
    map(batch, BRIDGE, VIA_HOST, &[ETHER], &[ETHER]);
    set(batch, BRIDGE, ZONE_REACH, &[ETHER]);
    limit_map(batch, BRIDGE, RATES_IN);
    limit_map(batch, BRIDGE, RATES_OUT);
    for (chain, rules) in base_chains() {
        base_chain(batch, BRIDGE, IfExists::Fail, &chain);
        table::rules(batch, BRIDGE, chain.name, &rules);
    }
}

/// Returns the number of rules of each chain.
pub(super) fn rule_counts() -> Vec<(&'static str, usize)> {
    base_chains().map(|(chain, rules)| (chain.name, rules.len())).into()
}

/// `meta protocol PROTOCOL` (`ETH_P_*`).
fn protocol(protocol: c_int) -> [Expression; 2] {
    [meta(NFT_META_PROTOCOL, R0), equal(R0, &(protocol as u16).to_be_bytes())]
}

/// The frame has a multicast or broadcast destination.
fn to_group() -> [Expression; 3] {
    [payload(NFT_PAYLOAD_LL_HEADER, ETHER_DADDR, 1, R0), mask(R0, &[1]), equal(R0, &[1])]
}

/// The rules of `hairpin`: a port of a zone sends unicast frames back to its machine. A machine that received
/// its own group frames would detect a duplicate of its addresses.
fn hairpin() -> Vec<Rule> {
    let same_port = [meta(NFT_META_IIFNAME, R0), meta(NFT_META_OIFNAME, AFTER_IFNAME), in_set(SAME_PORT, R0)];
    vec![
        // @ll,0,8 & 0x1 == 0x1 iifname . oifname @same-port drop
        rule(&[&to_group(), &same_port, &[drop()]]),
    ]
}

/// The rules of `router-messages`: no machine at a bridge of the host is a router of the host.
fn router_messages() -> Vec<Rule> {
    let dropped = |kind| {
        let message = icmpv6(kind, R0);
        rule(&[&protocol(libc::ETH_P_IPV6), &message, &drop_counted(NFT_META_IIFNAME, HOST_BRIDGE_PORTS)])
    };
    vec![
        // icmpv6 type nd-router-advert iifname @host-bridge-ports counter drop
        dropped(ND_ROUTER_ADVERT),
        // icmpv6 type nd-redirect iifname @host-bridge-ports counter drop
        dropped(ND_REDIRECT),
    ]
}

/// The rules of `antispoof`: frames have addresses of their machine. Machines of a zone are neither DHCP
/// servers nor routers of the others.
fn antispoof() -> Vec<Rule> {
    /// Offsets in a packet of ARP (RFC 826) and of a neighbour advertisement (RFC 4861), bytes.
    const ARP_SADDR_ETHER: u32 = 8;
    const ARP_SADDR_IP: u32 = 14;
    const ND_TARGET: u32 = 8;
    let dropped = |matches: &[Expression]| rule(&[matches, &drop_counted(NFT_META_IIFNAME, ANTISPOOF_DROPS)]);
    let sender = || [meta(NFT_META_IIFNAME, R0), ether_saddr(AFTER_IFNAME)];
    let accepted =
        |ethertype, matches: &[Expression]| rule(&[&protocol(ethertype), &sender(), matches, &[accept()]]);
    let from_port =
        |ethertype, number| rule(&[&protocol(ethertype), &l4proto(UDP, R0), &port(SPORT, number, R0)]);
    let message = |kind| rule(&[&protocol(libc::ETH_P_IPV6), &icmpv6(kind, R0)]);
    // The address register still has the sender address when the link-layer address of the packet replaces
    // the frame's.
    let arp = [
        network(ARP_SADDR_IP, 4, AFTER_ETHER),
        in_set(ANTISPOOF_SRC4, R0),
        network(ARP_SADDR_ETHER, 6, AFTER_IFNAME),
        in_set(ANTISPOOF_SRC4, R0),
    ];
    let target = [transport(ND_TARGET, 16, AFTER_ETHER), not_in_set(ANTISPOOF_SRC6, R0)];
    vec![
        // iifname != @zone-ports accept
        vec![meta(NFT_META_IIFNAME, R0), not_in_set(ZONE_PORTS, R0), accept()],
        // iifname . ether saddr . arp saddr ip @antispoof-src4 iifname . arp saddr ether . arp saddr ip
        // @antispoof-src4 accept
        accepted(libc::ETH_P_ARP, &arp),
        // meta protocol ip udp sport 67 iifname @antispoof-drops counter drop
        dropped(&from_port(libc::ETH_P_IP, DHCP_SERVER)),
        // meta protocol ip6 udp sport 547 iifname @antispoof-drops counter drop
        dropped(&from_port(libc::ETH_P_IPV6, DHCPV6_SERVER)),
        // icmpv6 type nd-router-advert iifname @antispoof-drops counter drop
        dropped(&message(ND_ROUTER_ADVERT)),
        // icmpv6 type nd-redirect iifname @antispoof-drops counter drop
        dropped(&message(ND_REDIRECT)),
        // icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @antispoof-src6 iifname
        // @antispoof-drops counter drop
        dropped(&rule(&[&message(ND_NEIGHBOR_ADVERT), &sender(), &target])),
        // iifname . ether saddr . ip saddr @antispoof-src4 accept
        accepted(libc::ETH_P_IP, &[network(IP_SADDR, 4, AFTER_ETHER), in_set(ANTISPOOF_SRC4, R0)]),
        // iifname . ether saddr . ip6 saddr @antispoof-src6 accept
        accepted(libc::ETH_P_IPV6, &[network(IP6_SADDR, 16, AFTER_ETHER), in_set(ANTISPOOF_SRC6, R0)]),
        // iifname @antispoof-drops counter drop
        dropped(&[]),
    ]
}

/// The rules of `egress`: frames between a restricted machine and other machines take the way via the host,
/// where the chain `egress` of the table `inet coracle` judges them with their connection. Group frames and
/// link-local packets are not forwarded by the host and have no connection: this chain judges them.
fn egress() -> Vec<Rule> {
    let restricted = || rule(&[&[ether_saddr(R0), in_set(EGRESS_RESTRICTED, R0)], &counter_drop()]);
    let reaches_zone = || [ether_saddr(R0), in_set(ZONE_REACH, R0), accept()];
    let to_link_local = || rule(&[&protocol(libc::ETH_P_IPV6), &is_link_local(IP6_DADDR, R0)]);
    let accepted = |matches: &[&[Expression]]| rule(&[&rule(matches), &[accept()]]);
    let to_host = [meta(NFT_META_PKTTYPE, R0), equal(R0, &[libc::PACKET_HOST])];
    let via_host = |offset| {
        vec![
            payload(NFT_PAYLOAD_LL_HEADER, offset, 6, R0),
            map_lookup(VIA_HOST, R0, R0),
            set_payload(NFT_PAYLOAD_LL_HEADER, ETHER_DADDR, 6, R0),
            load(&[libc::PACKET_HOST], R0),
            set_meta(NFT_META_PKTTYPE, R0),
            accept(),
        ]
    };
    vec![
        // meta pkttype host accept
        accepted(&[&to_host]),
        // meta protocol arp accept
        accepted(&[&protocol(libc::ETH_P_ARP)]),
        // Neighbour and listener discovery have no connections; DHCP clients have no address yet.
        // icmpv6 type 130-137 accept
        accepted(&[&protocol(libc::ETH_P_IPV6), &icmpv6_discovery(R0)]),
        // icmpv6 type mld2-listener-report accept
        accepted(&[&protocol(libc::ETH_P_IPV6), &icmpv6(MLD2_LISTENER_REPORT, R0)]),
        // meta protocol ip @ll,0,8 & 0x1 == 0x1 udp dport 67 accept
        accepted(&[&protocol(libc::ETH_P_IP), &to_group(), &to_dhcp_server(R0)]),
        // @ll,0,8 & 0x1 == 0x1 ether saddr @zone-reach accept
        rule(&[&to_group(), &reaches_zone()]),
        // @ll,0,8 & 0x1 == 0x1 ether saddr @egress-restricted counter drop
        rule(&[&to_group(), &restricted()]),
        // @ll,0,8 & 0x1 == 0x1 accept
        accepted(&[&to_group()]),
        // meta protocol ip6 @nh,192,16 & 0xffc0 == 0xfe80 ether saddr @zone-reach accept
        rule(&[&to_link_local(), &reaches_zone()]),
        // meta protocol ip6 @nh,192,16 & 0xffc0 == 0xfe80 ether saddr @egress-restricted counter drop
        rule(&[&to_link_local(), &restricted()]),
        // meta protocol ip6 @nh,192,16 & 0xffc0 == 0xfe80 accept
        accepted(&[&to_link_local()]),
        // ether daddr set ether saddr map @via-host meta pkttype set host accept
        via_host(ETHER_SADDR),
        // ether daddr set ether daddr map @via-host meta pkttype set host accept
        via_host(ETHER_DADDR),
    ]
}
