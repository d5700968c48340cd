//! The chains that bound whom machines begin to speak to and what comes to them. Each chain is a stop on the way of every
//! packet of the host, so these are there only as long as a machine has such a bound. Called by the files beside it.

use super::expression::{
    ACCEPT, DROP, Expression, IIFNAME, IIFTYPE, IPV4, IPV6, L4PROTO, LINK, NETWORK, OIFNAME, R0, TRANSPORT,
    at_least, at_most, connection, counter, differs, equal, expression, family, mask, meta, payload, verdict,
    within,
};
use super::guard::{NFTA_FIB_F_DADDR, fib_type, icmpv6};
use super::inet::{
    CONFINED, EGRESS_4, EGRESS_6, Hook, PREFIXES, RATES_IN, RATES_OUT, TABLE, UDP, chain, push_rule,
};
use super::member::Member;
use super::message::{Attributes, Batch, Existing, INET, Kind};
use super::{ask, commit, gone};
use crate::error::{Context, Result};

/// A bound that has a chain of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Of whom a machine begins to speak to.
    Egress,
    /// Of what comes to it.
    RateIn,
    /// Of what it sends.
    RateOut,
}

const ALL: [Bound; 3] = [Bound::Egress, Bound::RateIn, Bound::RateOut];

/// After connections are tracked, before ports lead elsewhere: judged by the address that was asked for.
const EGRESS: Hook = Hook { name: "egress", kind: "filter", hook: 0, priority: -150 };
const DELIVERED: Hook = Hook { name: "delivered", kind: "filter", hook: 4, priority: 300 };
/// After `guard`: what is forged counts against nobody.
const SENT: Hook = Hook { name: "sent", kind: "filter", hook: 0, priority: -299 };

impl Bound {
    fn hook(self) -> Hook {
        match self {
            Self::Egress => EGRESS,
            Self::RateIn => DELIVERED,
            Self::RateOut => SENT,
        }
    }

    /// Whether a machine has it.
    pub fn is_of(self, member: &Member) -> bool {
        match self {
            Self::Egress => member.bounds().egress.is_some(),
            // In a zone they are bound at its port.
            Self::RateIn => member.bounds().rate_in.is_some() && member.zone().is_none(),
            Self::RateOut => member.bounds().rate_out.is_some() && member.zone().is_none(),
        }
    }

    /// Names its chain in a message about chains.
    fn chain(self) -> Attributes {
        Attributes::new().text(1, TABLE).text(3, self.hook().name)
    }

    /// Empties its chain.
    fn clear(self, batch: &mut Batch) {
        let rules = Attributes::new().text(1, TABLE).text(2, self.hook().name);
        batch.push(Kind::DeleteRule, Existing::Keep, &rules);
    }
}

/// Makes the chains that a machine needs, whether they are there or not.
pub(super) fn make(batch: &mut Batch, member: &Member) {
    for bound in ALL.into_iter().filter(|bound| bound.is_of(member)) {
        chain(batch, Existing::Keep, &bound.hook());
        bound.clear(batch);
        let rules = match bound {
            Bound::Egress => egress(),
            Bound::RateIn => vec![paced(OIFNAME, PREFIXES[0], RATES_IN)],
            Bound::RateOut => vec![paced(IIFNAME, PREFIXES[0], RATES_OUT)],
        };
        rules.iter().for_each(|rule| push_rule(batch, bound.hook().name, rule));
    }
}

/// The bounds whose chains are there.
pub fn present() -> impl Iterator<Item = Bound> {
    ALL.into_iter().filter(|bound| ask(&Batch::question(INET, Kind::GetChain, &bound.chain())).is_ok())
}

/// Removes the chain of a bound that no machine has. None is fine.
///
/// # Errors
/// A kernel that refuses.
pub fn remove(bound: Bound) -> Result<()> {
    let mut batch = Batch::new();
    bound.clear(&mut batch);
    batch.push(Kind::DeleteChain, Existing::Keep, &bound.chain());
    gone(commit(batch)).context(|| format!("cannot remove the chain '{}' of the firewall", bound.hook().name))
}

/// Whoever may not speak to everybody answers, and begins to speak to whom it may. How neighbours
/// are found is no connection.
fn egress() -> Vec<Vec<Expression>> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    /// Neighbour discovery is untracked; where its destination is not of the link it is judged as everything else.
    const NEW_INVALID_OR_UNTRACKED: u32 = 8 | 1 | 64;
    let sender = || [meta(IIFTYPE, R0), equal(R0, &1_u16.to_ne_bytes()), payload(LINK, 6, 6, R0)];
    let to = |version, offset, length, set| {
        [&family(version)[..], &sender(), &[payload(NETWORK, offset, length, R0 + 2), within(set, R0)]]
            .concat()
            .into_iter()
            .chain([verdict(ACCEPT)])
            .collect()
    };
    vec![
        [&connection(0, ESTABLISHED_OR_RELATED)[..], &[verdict(ACCEPT)]].concat(),
        to(IPV4, 16, 4, EGRESS_4),
        to(IPV6, 24, 16, EGRESS_6),
        // No router passes it on: not for the host, it is a zone's own, where the kernel has bridges filtered.
        [&family(IPV6)[..], &neighbour(), &not_ours(), &[verdict(ACCEPT)]].concat(),
        // icmpv6 type { 130-137, 143 } fib daddr type { local, broadcast, anycast, multicast } accept
        on_link(130, 137),
        on_link(143, 143),
        // Who has no address yet asks all of its link.
        [
            &family(IPV4)[..],
            &[payload(NETWORK, 16, 4, R0), equal(R0, &[255; 4]), meta(L4PROTO, R0), equal(R0, &[UDP])],
            &[payload(TRANSPORT, 2, 2, R0), equal(R0, &67_u16.to_be_bytes()), verdict(ACCEPT)],
        ]
        .concat(),
        [&connection(0, NEW_INVALID_OR_UNTRACKED)[..], &sender(), &[within(CONFINED, R0), verdict(DROP)]]
            .concat(),
    ]
}

/// How neighbours and listeners are found: by addresses of the host and of all on the link.
fn on_link(first: u8, last: u8) -> Vec<Expression> {
    let kind = |kind: u8| u32::from(kind).to_ne_bytes();
    let here = [
        fib_type(NFTA_FIB_F_DADDR),
        at_least(R0, &kind(libc::RTN_LOCAL)),
        at_most(R0, &kind(libc::RTN_MULTICAST)),
        verdict(ACCEPT),
    ];
    [&family(IPV6)[..], &icmpv6(first, last), &here].concat()
}

/// To a link-local address.
pub(super) fn neighbour() -> [Expression; 3] {
    [payload(NETWORK, 24, 2, R0), mask(R0, &[0xff, 0xc0]), equal(R0, &[0xfe, 0x80])]
}

/// None of the host's own on the interface it comes by.
fn not_ours() -> [Expression; 2] {
    const DESTINATION_ON_INTERFACE: u32 = 2 | 8;
    const KIND: u32 = 3;
    const LOCAL: u32 = 2;
    let data = Attributes::new().number(1, R0).number(2, KIND).number(3, DESTINATION_ON_INTERFACE);
    [expression("fib", &data), differs(R0, &LOCAL.to_ne_bytes())]
}

/// What is over the limit of its interface, whose name begins so, goes no further.
pub(super) fn paced(interface: u32, prefix: &str, limits: &str) -> Vec<Expression> {
    let to_link = [meta(interface, R0), equal(R0, prefix.as_bytes())];
    let object = Attributes::new().number(3, R0).text(4, limits);
    let limit = [meta(interface, R0), expression("objref", &object), counter(), verdict(DROP)];
    to_link.into_iter().chain(limit).collect()
}
