//! The hosts' ends of interfaces beside a machine's link: pairs of the definition (`network.veth-extra`) carry only
//! packets that stay on them, and no port of a bridge of the host is a router for the host. Called by `table`,
//! `ports` and `part`.

use super::bridge::GUESTS;
use super::element::{Element, padded};
use super::expression;
use super::expression::{
    ACCEPT, ADDRESS_AT, DROP, Expression, IIFNAME, IPV4, IPV6, L4PROTO, NETWORK, OIFNAME, R0, TRANSPORT,
    at_least, at_most, counter, differs, equal, expression, family, mask, meta, payload, verdict, within,
};
use super::guard::{ICMPV6, NFTA_FIB_F_DADDR, NFTA_FIB_F_SADDR, fib_type, forged, of_host, router_messages};
use super::inet::{EXTRAS, FORGED, REFUSED, UDP};
use super::message::{Attributes, BRIDGE};
use serde::{Deserialize, Serialize};

/// The chain that judges packets from further pairs.
pub(super) const CHAIN: &str = "extra";

/// The host's end of an interface beside a machine's link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extra {
    /// Its name.
    name: String,
    /// Where its packets go.
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// To the host.
    Link,
    /// To a bridge of the host.
    Port,
}

impl Extra {
    /// A pair to the host.
    pub fn link(name: &str) -> Self {
        Self { name: name.to_owned(), kind: Kind::Link }
    }

    /// A port of a bridge of the host.
    pub fn port(name: &str) -> Self {
        Self { name: name.to_owned(), kind: Kind::Port }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface by which its packets come to the host. `None` if that is a bridge of the host.
    pub(super) fn interface(&self) -> Option<&str> {
        (self.kind == Kind::Link).then_some(&self.name)
    }

    /// Whether it needs the table of bridges.
    pub(super) fn is_port(&self) -> bool {
        self.kind == Kind::Port
    }

    pub(super) fn elements(&self) -> Vec<Element> {
        let key = padded(&self.name);
        match self.kind {
            Kind::Link => [EXTRAS, FORGED, REFUSED].map(|set| Element::of(set, key.clone())).to_vec(),
            Kind::Port => vec![Element::of_family(BRIDGE, GUESTS, key)],
        }
    }
}

/// Counts in the element of the interface, and drops.
fn refused(interface: u32) -> [Expression; 4] {
    [meta(interface, R0), within(REFUSED, R0), counter(), verdict(DROP)]
}

/// Sends packets from further pairs to their chain.
pub(super) fn jump() -> Vec<Expression> {
    // iifname @extras jump extra
    vec![meta(IIFNAME, R0), within(EXTRAS, R0), expression::jump(CHAIN)]
}

/// Packets from further pairs: for the host's addresses on the same link, from an address that is on that link.
pub(super) fn judged() -> Vec<Vec<Expression>> {
    /// `NFTA_FIB_F_IIF`: only the interface that the packet came by.
    const NFTA_FIB_F_IIF: u32 = 1 << 3;
    let here = |kind: u8| u32::from(kind).to_ne_bytes();
    let to = || fib_type(NFTA_FIB_F_DADDR | NFTA_FIB_F_IIF);
    let dropped = |is_so: &[Expression], by: [Expression; 4]| [is_so, &by].concat();
    let accepted = |is_so: &[Expression]| [is_so, &[verdict(ACCEPT)]].concat();
    let [advertises, redirects] = router_messages();
    let asks_by_dhcp = [
        &family(IPV4)[..],
        &[payload(NETWORK, 12, 4, ADDRESS_AT), equal(ADDRESS_AT, &[0; 4])],
        &[meta(L4PROTO, ADDRESS_AT), equal(ADDRESS_AT, &[UDP])],
        &[payload(TRANSPORT, 2, 2, ADDRESS_AT), equal(ADDRESS_AT, &67_u16.to_be_bytes())],
    ];
    let starts = |version, offset, bits: [u8; 2], is: [u8; 2]| {
        [&family(version)[..], &[payload(NETWORK, offset, 2, R0), mask(R0, &bits), equal(R0, &is)]].concat()
    };
    let unspecified = [
        &family(IPV6)[..],
        &[payload(NETWORK, 8, 16, R0), equal(R0, &[0; 16]), meta(L4PROTO, R0), equal(R0, &[ICMPV6])],
    ];
    let reaches = {
        const NFT_FIB_RESULT_OIF: u32 = 1;
        let back = Attributes::new().number(1, R0).number(2, NFT_FIB_RESULT_OIF);
        expression("fib", &back.number(3, NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF))
    };
    vec![
        // icmpv6 type nd-router-advert iifname @forged counter drop
        dropped(&[&family(IPV6)[..], &advertises].concat(), forged()),
        // icmpv6 type nd-redirect iifname @forged counter drop
        dropped(&[&family(IPV6)[..], &redirects].concat(), forged()),
        // ip saddr 0.0.0.0 udp dport 67 accept
        accepted(&asks_by_dhcp.concat()),
        // fib daddr . iif type { unspec, unicast } iifname @refused counter drop
        dropped(&[to(), at_most(R0, &here(libc::RTN_UNICAST))], refused(IIFNAME)),
        // fib daddr . iif type { blackhole, unreachable, prohibit, throw } iifname @refused counter drop
        dropped(&[to(), at_least(R0, &here(libc::RTN_BLACKHOLE))], refused(IIFNAME)),
        // fib saddr type local iifname @forged counter drop
        dropped(&of_host(NFTA_FIB_F_SADDR), forged()),
        // ip6 saddr fe80::/10 accept
        accepted(&starts(IPV6, 8, [0xff, 0xc0], [0xfe, 0x80])),
        // ip6 saddr :: meta l4proto ipv6-icmp accept
        accepted(&unspecified.concat()),
        // ip saddr 169.254.0.0/16 accept
        accepted(&starts(IPV4, 12, [0xff, 0xff], [169, 254])),
        // fib saddr . iif oif != 0 accept
        accepted(&[reaches, differs(R0, &[0; 4])]),
        // iifname @forged counter drop
        forged().to_vec(),
    ]
}

/// What the host does not forward: packets from and to further pairs.
pub(super) fn forward() -> [Vec<Expression>; 2] {
    // iifname @refused counter drop
    // oifname @refused counter drop
    [IIFNAME, OIFNAME].map(|interface| refused(interface).to_vec())
}
