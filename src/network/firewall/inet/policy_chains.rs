//! The chains that enforce the traffic policies of machines: allowed destinations and rates. Every packet of
//! the host passes each chain, so these exist only while a machine has such a policy. Called by `admission`,
//! `part` and the supervisor.

use super::antispoof::LINK_PREFIXES;
use super::sets::{EGRESS_DST4, EGRESS_DST6, EGRESS_RESTRICTED, RATES_IN, RATES_OUT};
use crate::error::{Context, Result};
use crate::network::firewall::matches::{
    IP_DADDR, IP6_DADDR, MLD2_LISTENER_REPORT, ether_saddr, icmpv6, icmpv6_discovery, is_ethernet,
    is_link_local, network, rate, to_dhcp_server,
};
use crate::network::firewall::member::Member;
use crate::network::firewall::netlink::expression::{
    AFTER_ETHER, Expression, R0, Rule, accept, at_least, at_most, ct_state, drop, equal, established, fib,
    in_set, nfproto, not_equal, rule,
};
use crate::network::firewall::netlink::nfta::*;
use crate::network::firewall::netlink::nlmsg::{Batch, INET, IPV4, IPV6, IfExists, Operation};
use crate::network::firewall::netlink::table::{self, BaseChain, base_chain, chain_name, flush};
use crate::network::firewall::netlink::{Nfnetlink, ignore_missing};
use libc::{NFT_META_IIFNAME, NFT_META_OIFNAME};

/// A chain that exists only while a machine needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolicyChain {
    /// Restricts destinations (`network.egress`).
    Egress,
    /// Limits traffic to machines (`network.rate-in`).
    RateIn,
    /// Limits traffic from machines (`network.rate-out`).
    RateOut,
}

const ALL: [PolicyChain; 3] = [PolicyChain::Egress, PolicyChain::RateIn, PolicyChain::RateOut];

/// After connection tracking, before published ports are translated: the destination is the requested
/// address.
const EGRESS: BaseChain = BaseChain {
    name: "egress",
    kind: "filter",
    hook: libc::NF_INET_PRE_ROUTING,
    priority: libc::NF_IP_PRI_MANGLE,
};
/// After every other chain: dropped packets do not count against the rate.
const RATE_IN: BaseChain =
    BaseChain { name: "rate-in", kind: "filter", hook: libc::NF_INET_POST_ROUTING, priority: 300 };
/// After `antispoof`: forged packets do not count against the rate.
const RATE_OUT: BaseChain = BaseChain {
    name: "rate-out",
    kind: "filter",
    hook: libc::NF_INET_PRE_ROUTING,
    priority: libc::NF_IP_PRI_RAW + 1,
};

impl PolicyChain {
    fn definition(self) -> BaseChain {
        match self {
            Self::Egress => EGRESS,
            Self::RateIn => RATE_IN,
            Self::RateOut => RATE_OUT,
        }
    }

    fn rules(self) -> Vec<Rule> {
        match self {
            Self::Egress => egress(),
            // oifname "ve-*" limit name oifname map @rates-in counter drop
            Self::RateIn => vec![rate(NFT_META_OIFNAME, LINK_PREFIXES[0], RATES_IN)],
            // iifname "ve-*" limit name iifname map @rates-out counter drop
            Self::RateOut => vec![rate(NFT_META_IIFNAME, LINK_PREFIXES[0], RATES_OUT)],
        }
    }

    /// Whether a machine needs the chain. In a zone, the table `bridge coracle` limits rates at the machine's
    /// port.
    pub(crate) fn is_needed_by(self, member: &Member) -> bool {
        let policy = member.policy();
        match self {
            Self::Egress => policy.egress.is_some(),
            Self::RateIn => policy.rate_in.is_some() && member.zone().is_none(),
            Self::RateOut => policy.rate_out.is_some() && member.zone().is_none(),
        }
    }

    /// Returns the existing chains.
    pub(crate) fn existing(socket: &Nfnetlink) -> impl Iterator<Item = Self> {
        let exists = move |chain: &Self| {
            let name = chain_name(chain.definition().name);
            socket.send(&Batch::request(INET, Operation::GetChain, &name)).is_ok()
        };
        ALL.into_iter().filter(exists)
    }

    /// Deletes the chain. A missing chain is not an error.
    ///
    /// # Errors
    /// Any error of the kernel.
    pub(crate) fn delete(self, socket: &Nfnetlink) -> Result<()> {
        let name = self.definition().name;
        let mut batch = Batch::new();
        flush(&mut batch, name);
        batch.push(Operation::DeleteChain, IfExists::Keep, &chain_name(name));
        ignore_missing(socket.commit(batch)).context(|| format!("cannot delete the firewall chain '{name}'"))
    }
}

/// Creates the chains that a machine needs. Existing chains get the same rules again.
pub(crate) fn create(batch: &mut Batch, member: &Member) {
    for chain in ALL.into_iter().filter(|chain| chain.is_needed_by(member)) {
        let definition = chain.definition();
        base_chain(batch, INET, IfExists::Keep, &definition);
        flush(batch, definition.name);
        table::rules(batch, INET, definition.name, &chain.rules());
    }
}

/// The rules that accept packets to the allowed destinations of their machine.
pub(crate) fn allowed_destinations() -> [Rule; 2] {
    let allowed = |family, offset, length, set| {
        let key = [ether_saddr(R0), network(offset, length, R0 + 2), in_set(set, R0)];
        rule(&[&nfproto(family), &is_ethernet(), &key, &[accept()]])
    };
    [
        // ether saddr . ip daddr @egress-dst4 accept
        allowed(IPV4, IP_DADDR, 4, EGRESS_DST4),
        // ether saddr . ip6 daddr @egress-dst6 accept
        allowed(IPV6, IP6_DADDR, 16, EGRESS_DST6),
    ]
}

/// The rules of `egress`: a restricted machine replies to everyone and opens connections to its allowed
/// destinations. Neighbour discovery and DHCP do not need connections.
fn egress() -> Vec<Rule> {
    /// Neighbour discovery is untracked; to other destinations it is judged like all other packets.
    const NEW_INVALID_OR_UNTRACKED: u32 =
        NF_CT_STATE_NEW_BIT | NF_CT_STATE_INVALID_BIT | NF_CT_STATE_UNTRACKED_BIT;
    let not_to_host = [
        fib(NFTA_FIB_F_DADDR | NFTA_FIB_F_IIF, NFT_FIB_RESULT_ADDRTYPE),
        not_equal(R0, &u32::from(libc::RTN_LOCAL).to_ne_bytes()),
    ];
    let to_all4 = [network(IP_DADDR, 4, R0), equal(R0, &[255; 4])];
    let restricted = rule(&[&is_ethernet(), &[ether_saddr(R0), in_set(EGRESS_RESTRICTED, R0)]]);
    let [allowed4, allowed6] = allowed_destinations();
    vec![
        // ct state established,related accept
        rule(&[&established(), &[accept()]]),
        allowed4,
        allowed6,
        // Routers do not forward these packets. They stay in their zone, where bridge-nf-call-ip6tables
        // filters bridges.
        // meta nfproto ipv6 @nh,192,16 & 0xffc0 == 0xfe80 fib daddr . iif type != local accept
        rule(&[&nfproto(IPV6), &is_link_local(IP6_DADDR, R0), &not_to_host, &[accept()]]),
        // icmpv6 type 130-137 fib daddr type 2-5 accept
        on_link(&icmpv6_discovery(AFTER_ETHER)),
        // icmpv6 type mld2-listener-report fib daddr type 2-5 accept
        on_link(&icmpv6(MLD2_LISTENER_REPORT, AFTER_ETHER)),
        // DHCP clients have no address yet.
        // ip daddr 255.255.255.255 udp dport 67 accept
        rule(&[&nfproto(IPV4), &to_all4, &to_dhcp_server(R0), &[accept()]]),
        // The element of the machine counts.
        // ct state invalid,new,untracked ether saddr @egress-restricted drop
        rule(&[&ct_state(NEW_INVALID_OR_UNTRACKED), &restricted, &[drop()]]),
    ]
}

/// Accepts neighbour and listener discovery to addresses of the host and to multicast addresses: the address
/// types local, broadcast, anycast and multicast.
fn on_link(discovery: &[Expression]) -> Rule {
    let kind = |kind: u8| u32::from(kind).to_ne_bytes();
    let to = [
        fib(NFTA_FIB_F_DADDR, NFT_FIB_RESULT_ADDRTYPE),
        at_least(R0, &kind(libc::RTN_LOCAL)),
        at_most(R0, &kind(libc::RTN_MULTICAST)),
    ];
    rule(&[&nfproto(IPV6), discovery, &to, &[accept()]])
}
