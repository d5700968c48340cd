//! The chain `antispoof-extra`: packets from further pairs of machines (`network.veth-extra`) are for the
//! host's addresses on the same link, from an address that the host reaches by that link. Called by `inet`,
//! `antispoof` and `input_forward`.

use super::sets::{ANTISPOOF_DROPS, EXTRA_LINK_DROPS, EXTRA_LINKS};
use crate::network::firewall::matches::{
    ICMPV6, IP_SADDR, IP6_SADDR, ND_REDIRECT, ND_ROUTER_ADVERT, drop_counted, from_host_address, icmpv6,
    is_link_local, l4proto, network, to_dhcp_server,
};
use crate::network::firewall::netlink::expression;
use crate::network::firewall::netlink::expression::{
    AFTER_ETHER, Expression, R0, Rule, accept, at_least, at_most, equal, fib, in_set, meta, nfproto,
    not_equal, rule,
};
use crate::network::firewall::netlink::nfta::{
    NFT_FIB_RESULT_ADDRTYPE, NFT_FIB_RESULT_OIF, NFTA_FIB_F_DADDR, NFTA_FIB_F_IIF, NFTA_FIB_F_SADDR,
};
use crate::network::firewall::netlink::nlmsg::{IPV4, IPV6};
use libc::{NFT_META_IIFNAME, NFT_META_OIFNAME};

/// The name of the chain, which has no hook.
pub(crate) const CHAIN: &str = "antispoof-extra";

/// The rule that sends packets from further pairs to the chain.
pub(crate) fn jump() -> Rule {
    // iifname @extra-links jump antispoof-extra
    vec![meta(NFT_META_IIFNAME, R0), in_set(EXTRA_LINKS, R0), expression::jump(CHAIN)]
}

/// The rules of the chain.
pub(crate) fn rules() -> Vec<Rule> {
    let kind = |kind: u8| u32::from(kind).to_ne_bytes();
    let destination = || fib(NFTA_FIB_F_DADDR | NFTA_FIB_F_IIF, NFT_FIB_RESULT_ADDRTYPE);
    let forged = |matches: &[Expression]| rule(&[matches, &drop_counted(NFT_META_IIFNAME, ANTISPOOF_DROPS)]);
    let leaving =
        |matches: &[Expression]| rule(&[matches, &drop_counted(NFT_META_IIFNAME, EXTRA_LINK_DROPS)]);
    let accepted = |matches: &[&[Expression]]| rule(&[&rule(matches), &[accept()]]);
    let no_address4 = [network(IP_SADDR, 4, AFTER_ETHER), equal(AFTER_ETHER, &[0; 4])];
    let no_address6 = [network(IP6_SADDR, 16, R0), equal(R0, &[0; 16])];
    let link_local4 = [network(IP_SADDR, 2, R0), equal(R0, &[169, 254])];
    let by_link = [fib(NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF, NFT_FIB_RESULT_OIF), not_equal(R0, &[0; 4])];
    vec![
        // icmpv6 type nd-router-advert iifname @antispoof-drops counter drop
        forged(&rule(&[&nfproto(IPV6), &icmpv6(ND_ROUTER_ADVERT, AFTER_ETHER)])),
        // icmpv6 type nd-redirect iifname @antispoof-drops counter drop
        forged(&rule(&[&nfproto(IPV6), &icmpv6(ND_REDIRECT, AFTER_ETHER)])),
        // ip saddr 0.0.0.0 udp dport 67 accept
        accepted(&[&nfproto(IPV4), &no_address4, &to_dhcp_server(AFTER_ETHER)]),
        // The types unspec and unicast: not an address of the host on this link.
        // fib daddr . iif type <= unicast iifname @extra-link-drops counter drop
        leaving(&[destination(), at_most(R0, &kind(libc::RTN_UNICAST))]),
        // The types blackhole, unreachable, prohibit and throw.
        // fib daddr . iif type >= blackhole iifname @extra-link-drops counter drop
        leaving(&[destination(), at_least(R0, &kind(libc::RTN_BLACKHOLE))]),
        // fib saddr type local iifname @antispoof-drops counter drop
        forged(&from_host_address()),
        // meta nfproto ipv6 @nh,64,16 & 0xffc0 == 0xfe80 accept
        accepted(&[&nfproto(IPV6), &is_link_local(IP6_SADDR, R0)]),
        // ip6 saddr :: meta l4proto ipv6-icmp accept
        accepted(&[&nfproto(IPV6), &no_address6, &l4proto(ICMPV6, R0)]),
        // ip saddr 169.254.0.0/16 accept
        accepted(&[&nfproto(IPV4), &link_local4]),
        // fib saddr . iif oif != 0 accept
        accepted(&[&by_link]),
        // iifname @antispoof-drops counter drop
        forged(&[]),
    ]
}

/// The rules of `forward`: the host does not forward packets from and to further pairs.
pub(crate) fn forward() -> [Rule; 2] {
    [
        // iifname @extra-link-drops counter drop
        drop_counted(NFT_META_IIFNAME, EXTRA_LINK_DROPS),
        // oifname @extra-link-drops counter drop
        drop_counted(NFT_META_OIFNAME, EXTRA_LINK_DROPS),
    ]
}
