//! The sets and maps of the table `inet coracle`. Machines add and delete elements; the rules that use them
//! do not change. Called by `inet`; the names are used by the files of rules and of elements.

use crate::network::firewall::netlink::nlmsg::{Batch, INET};
use crate::network::firewall::netlink::table::{
    ETHER, Field, IFNAME, IPV4, IPV6, PROTOCOL, SERVICE, counting_set, limit_map, map, range_set, set,
    verdict_map,
};

/// The hosts' ends of the links of machines, and the bridges of zones.
pub(crate) const MACHINE_LINKS: &str = "machine-links";
/// The hosts' ends of further pairs of machines (`network.veth-extra`).
pub(crate) const EXTRA_LINKS: &str = "extra-links";
/// The bridges of zones: zones have no connectivity with each other and with other machines.
pub(crate) const ZONE_BRIDGES: &str = "zone-bridges";
/// Input and output interface of packets that stay in a zone, on hosts with `bridge-nf-call-iptables`.
pub(crate) const SAME_ZONE: &str = "same-zone";
/// The link-layer address of each machine: interface, address.
pub(crate) const MACHINE_MACS: &str = "machine-macs";
/// The IPv4 source address of each machine: interface, link-layer address, address.
pub(crate) const ANTISPOOF_SRC4: &str = "antispoof-src4";
/// The IPv6 source prefix of each machine: interface, link-layer address, prefix.
pub(crate) const ANTISPOOF_SRC6: &str = "antispoof-src6";
/// Counts packets with a forged source address or a loopback destination of each machine link and extra link.
pub(crate) const ANTISPOOF_DROPS: &str = "antispoof-drops";
/// Counts packets of each extra link that are not for the host on that link.
pub(crate) const EXTRA_LINK_DROPS: &str = "extra-link-drops";
/// IPv4 addresses that are translated to the host's.
pub(crate) const MASQUERADE_SRC4: &str = "masquerade-src4";
/// IPv6 prefixes that are translated to the host's address.
pub(crate) const MASQUERADE_SRC6: &str = "masquerade-src6";
/// Published ports at all IPv4 addresses of the host: protocol and port to address and port.
pub(crate) const DNAT4: &str = "dnat4";
/// Published ports at all IPv6 addresses of the host.
pub(crate) const DNAT6: &str = "dnat6";
/// Published ports at one IPv4 address of the host: address, protocol and port to address and port.
pub(crate) const DNAT_ADDR4: &str = "dnat-addr4";
/// Published ports at one IPv6 address of the host.
pub(crate) const DNAT_ADDR6: &str = "dnat-addr6";
/// Published TCP ports at all addresses of the host whose first connections a host process relays.
pub(crate) const ACTIVATION: &str = "activation";
/// Such ports at one IPv4 address of the host: address and port.
pub(crate) const ACTIVATION_ADDR4: &str = "activation-addr4";
/// Such ports at one IPv6 address of the host.
pub(crate) const ACTIVATION_ADDR6: &str = "activation-addr6";
/// Redirects DNS queries to the host's resolver at a loopback address: interface, link-layer address,
/// address, protocol and port to address and port.
pub(crate) const DNS_REDIRECT: &str = "dns-redirect";
/// Machines with `network.egress`, by link-layer address. Counts dropped packets.
pub(crate) const EGRESS_RESTRICTED: &str = "egress-restricted";
/// Allowed IPv4 destinations: link-layer address and range of addresses.
pub(crate) const EGRESS_DST4: &str = "egress-dst4";
/// Allowed IPv6 destinations.
pub(crate) const EGRESS_DST6: &str = "egress-dst6";
/// Limits of traffic to machines: interface to limit.
pub(crate) const RATES_IN: &str = "rates-in";
/// Limits of traffic from machines: interface to limit.
pub(crate) const RATES_OUT: &str = "rates-out";
/// Jumps to the chain that counts the connections of a machine, by interface.
pub(crate) const CONNECTION_LIMIT_BY_LINK: &str = "connection-limit-by-link";
/// Jumps to the chain that counts the connections of a machine in a zone, by link-layer address.
pub(crate) const CONNECTION_LIMIT_BY_MAC: &str = "connection-limit-by-mac";

/// Creates the sets and maps.
pub(crate) fn create(batch: &mut Batch) {
    const PORT: [Field; 2] = [PROTOCOL, SERVICE];
    set(batch, INET, MACHINE_LINKS, &[IFNAME]);
    set(batch, INET, EXTRA_LINKS, &[IFNAME]);
    set(batch, INET, ZONE_BRIDGES, &[IFNAME]);
    set(batch, INET, SAME_ZONE, &[IFNAME, IFNAME]);
    set(batch, INET, MACHINE_MACS, &[IFNAME, ETHER]);
    set(batch, INET, ANTISPOOF_SRC4, &[IFNAME, ETHER, IPV4]);
    set(batch, INET, ANTISPOOF_SRC6, &[IFNAME, ETHER, IPV6]);
    counting_set(batch, INET, ANTISPOOF_DROPS, &[IFNAME]);
    counting_set(batch, INET, EXTRA_LINK_DROPS, &[IFNAME]);
    set(batch, INET, MASQUERADE_SRC4, &[IPV4]);
    set(batch, INET, MASQUERADE_SRC6, &[IPV6]);
    map(batch, INET, DNAT4, &PORT, &[IPV4, SERVICE]);
    map(batch, INET, DNAT6, &PORT, &[IPV6, SERVICE]);
    map(batch, INET, DNAT_ADDR4, &[IPV4, PROTOCOL, SERVICE], &[IPV4, SERVICE]);
    map(batch, INET, DNAT_ADDR6, &[IPV6, PROTOCOL, SERVICE], &[IPV6, SERVICE]);
    set(batch, INET, ACTIVATION, &[SERVICE]);
    set(batch, INET, ACTIVATION_ADDR4, &[IPV4, SERVICE]);
    set(batch, INET, ACTIVATION_ADDR6, &[IPV6, SERVICE]);
    map(batch, INET, DNS_REDIRECT, &[IFNAME, ETHER, IPV4, PROTOCOL, SERVICE], &[IPV4, SERVICE]);
    counting_set(batch, INET, EGRESS_RESTRICTED, &[ETHER]);
    range_set(batch, INET, EGRESS_DST4, &[ETHER, IPV4]);
    range_set(batch, INET, EGRESS_DST6, &[ETHER, IPV6]);
    limit_map(batch, INET, RATES_IN);
    limit_map(batch, INET, RATES_OUT);
    verdict_map(batch, INET, CONNECTION_LIMIT_BY_LINK, IFNAME);
    verdict_map(batch, INET, CONNECTION_LIMIT_BY_MAC, ETHER);
}
