//! The table `inet coracle`: sets and maps that machines come to and go from, and chains that never
//! change, so that the hundredth machine costs what the first did. Each chain is a stop on the way of every
//! packet of the host: those for bounds are there from the first machine that has some. Called by the file above.

use super::admission::admission;
use super::connections;
use super::element::padded;
use super::expression::{
    ACCEPT, DROP, ETHER_AT, Expression, IIFNAME, IIFTYPE, IPV4, IPV6, L4PROTO, LINK, NETWORK, OIFNAME, R0,
    TRANSPORT, connection, counter, datatype, differs, equal, expression, family, leads, mask, masquerade,
    meta, outside, payload, value, verdict, within,
};
use super::extras;
use super::guard::guard;
use super::message::{Attributes, Batch, Existing, INET, Kind, Read};
use super::sets::{counted, limits, map, ranges, set};
use crate::machine::network::Protocol;
use std::net::Ipv6Addr;

/// The table's name.
pub const TABLE: &str = "coracle";
/// The hosts' ends of the links of machines.
pub const LINKS: &str = "links";
/// Which machine has which link-layer address: interface, address.
pub const SENDERS: &str = "senders";
/// Which machine may send with which IPv4 address: interface, link-layer address, address.
pub const SOURCES_4: &str = "sources4";
/// The same for IPv6: interface, link-layer address, prefix.
pub const SOURCES_6: &str = "sources6";
/// Bridges of zones, which are apart from each other and from all other machines.
pub const ZONES: &str = "zones";
/// The same twice: the way in and out of what stays in a zone, where the kernel has bridges filtered.
pub const SAME_ZONE: &str = "same-zone";
/// IPv4 addresses that go out under the host's.
pub const INSIDE_4: &str = "inside4";
/// IPv6 prefixes that go out under the host's address.
pub const INSIDE_6: &str = "inside6";
/// Where a port of any address of the host leads over IPv4: protocol and port to address and port.
pub const PORTS_4: &str = "ports4";
/// The same for IPv6.
pub const PORTS_6: &str = "ports6";
/// Where a port of one IPv4 address leads: address, protocol and port to address and port.
pub const AT_4: &str = "at4";
/// The same for IPv6.
pub const AT_6: &str = "at6";
/// Redirects DNS queries to the host's resolver at a loopback address: interface, link-layer address, address, protocol
/// and port to address and port.
pub const RESOLVERS: &str = "resolvers";
/// Machines that may not speak to everybody, by link-layer address; each counts what is refused.
pub const CONFINED: &str = "confined";
/// Whom they may begin to speak to over IPv4: link-layer address and range of addresses.
pub const EGRESS_4: &str = "egress4";
/// The same for IPv6.
pub const EGRESS_6: &str = "egress6";
/// The hosts' ends of links again; each counts what came with an address that is not the machine's, or for the
/// host's loopback.
pub const FORGED: &str = "forged";
/// The hosts' ends of further pairs of machines.
pub const EXTRAS: &str = "extras";
/// The same again; each counts packets that were not to leave their link.
pub const REFUSED: &str = "refused";
/// Bounds of what goes to machines: interface to limit.
pub const RATES_IN: &str = "rates-in";
/// Bounds of what comes from machines.
pub const RATES_OUT: &str = "rates-out";
/// Numbers of protocols.
pub const TCP: u8 = 6;
/// The same for datagrams.
pub const UDP: u8 = 17;

/// How the names of links to machines, and of the bridges of their zones, begin.
pub(super) const PREFIXES: [&str; 2] = ["ve-", "vz-"];

/// What of an IPv6 address is its prefix.
pub(super) const NETWORK_PART: [u8; 16] = [255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where packets are met, and when.
pub(super) struct Hook {
    pub name: &'static str,
    pub kind: &'static str,
    pub hook: u32,
    pub priority: i32,
}

const GUARD: Hook = Hook { name: "guard", kind: "filter", hook: 0, priority: -300 };
const FORWARD: Hook = Hook { name: "forward", kind: "filter", hook: 2, priority: 0 };
const ADMISSION: Hook = Hook { name: "admission", kind: "filter", hook: 0, priority: -160 };
const INPUT: Hook = Hook { name: "input", kind: "filter", hook: 1, priority: 0 };
const ENTER: Hook = Hook { name: "enter", kind: "nat", hook: 0, priority: -100 };
const INPUT_SNAT: Hook = Hook { name: "input-snat", kind: "nat", hook: 1, priority: 100 };
const LOCAL: Hook = Hook { name: "local", kind: "nat", hook: 3, priority: -100 };
const LEAVE: Hook = Hook { name: "leave", kind: "nat", hook: 4, priority: 100 };

/// Makes the table, where it is not there.
pub fn make(batch: &mut Batch) {
    batch.push(Kind::NewTable, Existing::Refuse, &Attributes::new().text(1, TABLE));
    set(batch, INET, LINKS, &[(datatype::IFNAME, 16)]);
    set(batch, INET, SENDERS, &[(datatype::IFNAME, 16), (datatype::ETHER, 6)]);
    set(batch, INET, SOURCES_4, &[(datatype::IFNAME, 16), (datatype::ETHER, 6), (datatype::IPV4, 4)]);
    set(batch, INET, SOURCES_6, &[(datatype::IFNAME, 16), (datatype::ETHER, 6), (datatype::IPV6, 16)]);
    set(batch, INET, ZONES, &[(datatype::IFNAME, 16)]);
    set(batch, INET, SAME_ZONE, &[(datatype::IFNAME, 16), (datatype::IFNAME, 16)]);
    set(batch, INET, INSIDE_4, &[(datatype::IPV4, 4)]);
    set(batch, INET, INSIDE_6, &[(datatype::IPV6, 16)]);
    let place = [(datatype::PROTOCOL, 1), (datatype::SERVICE, 2)];
    let (ipv4, ipv6) = ((datatype::IPV4, 4), (datatype::IPV6, 16));
    map(batch, INET, PORTS_4, &place, &[ipv4, place[1]]);
    map(batch, INET, PORTS_6, &place, &[ipv6, place[1]]);
    map(batch, INET, AT_4, &[ipv4, place[0], place[1]], &[ipv4, place[1]]);
    map(batch, INET, AT_6, &[ipv6, place[0], place[1]], &[ipv6, place[1]]);
    let sender = [(datatype::IFNAME, 16), (datatype::ETHER, 6)];
    map(batch, INET, RESOLVERS, &[sender[0], sender[1], ipv4, place[0], place[1]], &[ipv4, place[1]]);
    counted(batch, INET, CONFINED, &[(datatype::ETHER, 6)]);
    counted(batch, INET, FORGED, &[(datatype::IFNAME, 16)]);
    set(batch, INET, EXTRAS, &[(datatype::IFNAME, 16)]);
    counted(batch, INET, REFUSED, &[(datatype::IFNAME, 16)]);
    ranges(batch, INET, EGRESS_4, &[(datatype::ETHER, 6), ipv4]);
    ranges(batch, INET, EGRESS_6, &[(datatype::ETHER, 6), ipv6]);
    limits(batch, INET, RATES_IN);
    limits(batch, INET, RATES_OUT);
    connections::make(batch);
    // chain extra { }
    let extra = Attributes::new().text(1, TABLE).text(3, extras::CHAIN);
    batch.push(Kind::NewChain, Existing::Refuse, &extra);
    extras::judged().iter().for_each(|rule| push_rule(batch, extras::CHAIN, rule));
    let chains = [
        (GUARD, guard()),
        (ADMISSION, admission()),
        (INPUT, input()),
        (FORWARD, forward()),
        (ENTER, enter()),
        (INPUT_SNAT, input_snat()),
        (LOCAL, ports()),
        (LEAVE, leave()),
    ];
    for (hook, rules) in chains {
        chain(batch, Existing::Refuse, &hook);
        rules.iter().for_each(|rule| push_rule(batch, hook.name, rule));
    }
}

/// The number of rules of each chain.
pub(super) fn counts() -> Vec<(&'static str, usize)> {
    vec![
        (extras::CHAIN, extras::judged().len()),
        (connections::CHAIN, connections::counted().len()),
        (GUARD.name, guard().len()),
        (ADMISSION.name, admission().len()),
        (INPUT.name, input().len()),
        (FORWARD.name, forward().len()),
        (ENTER.name, enter().len()),
        (INPUT_SNAT.name, input_snat().len()),
        (LOCAL.name, ports().len()),
        (LEAVE.name, leave().len()),
    ]
}

pub(super) fn push_rule(batch: &mut Batch, chain: &str, rule: &[Expression]) {
    let rule = Attributes::new().text(1, TABLE).text(2, chain).list(4, rule);
    batch.push(Kind::NewRule, Existing::Keep, &rule);
}

pub(super) fn chain(batch: &mut Batch, existing: Existing, Hook { name, kind, hook, priority }: &Hook) {
    let place = Attributes::new().number(1, *hook).number(2, priority.cast_unsigned());
    let chain = Attributes::new().text(1, TABLE).text(3, name).nested(4, &place).number(5, ACCEPT);
    batch.push(Kind::NewChain, existing, &chain.text(7, kind));
}

/// Nobody from outside gets to a machine but with an answer or by a forwarded port.
fn forward() -> Vec<Vec<Expression>> {
    let to_machine = || [meta(OIFNAME, R0), within(LINKS, R0)];
    let [from_extra, to_extra] = extras::forward();
    vec![
        // Established or related: first, because most packets are.
        [&connection(0, 2 | 4)[..], &[verdict(ACCEPT)]].concat(),
        from_extra,
        to_extra,
        vec![meta(OIFNAME, R0), outside(LINKS, R0), verdict(ACCEPT)],
        // Its destination was changed.
        [&connection(2, 0x20)[..], &[verdict(ACCEPT)]].concat(),
        vec![meta(IIFNAME, R0), meta(OIFNAME, R0 + 4), within(SAME_ZONE, R0), verdict(ACCEPT)],
        // Not even other machines: a zone is apart.
        vec![meta(IIFNAME, R0), within(ZONES, R0), counter(), verdict(DROP)],
        vec![meta(OIFNAME, R0), within(ZONES, R0), counter(), verdict(DROP)],
        vec![meta(IIFNAME, R0), within(LINKS, R0), verdict(ACCEPT)],
        [&to_machine()[..], &[counter(), verdict(DROP)]].concat(),
    ]
}

/// The host takes no names from machines: neither answers nor questions of protocols that ask a whole link reach it.
fn input() -> Vec<Vec<Expression>> {
    const NETBIOS: u16 = 137;
    const MULTICAST_DNS: u16 = 5353;
    const LLMNR: u16 = 5355;
    let mut rules = vec![
        // ct state established,related accept
        [&connection(0, 2 | 4)[..], &[verdict(ACCEPT)]].concat(),
    ];
    for set in [LINKS, EXTRAS] {
        for port in [NETBIOS, MULTICAST_DNS, LLMNR] {
            for offset in [0, 2] {
                // iifname @links meta l4proto { tcp, udp } th sport PORT counter drop
                // iifname @links meta l4proto { tcp, udp } th dport PORT counter drop
                let ports = [payload(TRANSPORT, offset, 2, R0), equal(R0, &port.to_be_bytes())];
                for protocol in [TCP, UDP] {
                    let by = [meta(IIFNAME, R0), within(set, R0), meta(L4PROTO, R0), equal(R0, &[protocol])];
                    rules.push([&by[..], &ports, &[counter(), verdict(DROP)]].concat());
                }
            }
        }
    }
    rules
}

/// Changes destinations of incoming packets: DNS queries to a machine's own gateway first, then forwarded ports.
fn enter() -> Vec<Vec<Expression>> {
    let (address, found) = (ETHER_AT + 2, ETHER_AT + 5);
    // meta iifname . ether saddr . ip daddr . meta l4proto . th dport: dnat ip to ... map @resolvers
    let key = [meta(IIFNAME, R0), payload(LINK, 6, 6, ETHER_AT), payload(NETWORK, 16, 4, address)];
    let port = [meta(L4PROTO, address + 1), payload(TRANSPORT, 2, 2, address + 2)];
    let change = Attributes::new().number(1, 1).number(2, IPV4.into()).number(3, found).number(5, found + 1);
    let ethernet = [meta(IIFTYPE, R0), equal(R0, &1_u16.to_ne_bytes())];
    let to = [leads(RESOLVERS, R0, found), expression("nat", &change)];
    let mut rules = vec![[&family(IPV4)[..], &ethernet, &key, &port, &to].concat()];
    rules.extend(ports());
    rules
}

/// Gives redirected DNS queries a loopback source: many resolvers at loopback addresses answer only local clients.
fn input_snat() -> Vec<Vec<Expression>> {
    let redirected = [meta(IIFNAME, R0), within(LINKS, R0), payload(NETWORK, 16, 1, R0), equal(R0, &[127])];
    let localhost = Attributes::new().number(1, R0).nested(2, &value(&[127, 0, 0, 1]));
    let source = Attributes::new().number(1, 0).number(2, IPV4.into()).number(3, R0);
    let change = [expression("immediate", &localhost), expression("nat", &source)];
    // iifname @links ip daddr 127.0.0.0/8 ct status dnat snat ip to 127.0.0.1
    vec![[&family(IPV4)[..], &redirected, &connection(2, 0x20), &change].concat()]
}

/// A port of the host becomes one of a machine.
fn ports() -> Vec<Vec<Expression>> {
    // Source or destination of a header; the result is the kind of the address, 2 is local.
    let to_us = || {
        let data = Attributes::new().number(1, R0).number(2, 3).number(3, 2);
        [expression("fib", &data), equal(R0, &2_u32.to_ne_bytes())]
    };
    let rule = |version, load: Option<Expression>, map, key_length: u32, address_length: u32| {
        let place = R0 + key_length;
        let found = place + 2;
        let mut rule = family(version).to_vec();
        rule.extend(to_us());
        rule.extend(load);
        rule.extend([meta(L4PROTO, place), payload(TRANSPORT, 2, 2, place + 1)]);
        rule.push(leads(map, R0, found));
        let change = Attributes::new().number(1, 1).number(2, version.into()).number(3, found);
        rule.push(expression("nat", &change.number(5, found + address_length)));
        rule
    };
    vec![
        rule(IPV4, Some(payload(NETWORK, 16, 4, R0)), AT_4, 1, 1),
        rule(IPV4, None, PORTS_4, 0, 1),
        rule(IPV6, Some(payload(NETWORK, 24, 16, R0)), AT_6, 4, 4),
        rule(IPV6, None, PORTS_6, 0, 4),
    ]
}

/// What leaves for others than machines has the host's address. So has what reaches a machine by a
/// port from where no answer could go back: the host's loopback, and machines, itself for one.
fn leave() -> Vec<Vec<Expression>> {
    let outwards = || [meta(OIFNAME, R0), outside(LINKS, R0)];
    let loopback = Ipv6Addr::LOCALHOST.octets();
    let from_4 = || [payload(NETWORK, 12, 4, R0), within(INSIDE_4, R0), masquerade()];
    let from_6 =
        || [payload(NETWORK, 8, 16, R0), mask(R0, &NETWORK_PART), within(INSIDE_6, R0), masquerade()];
    vec![
        [&outwards()[..], &family(IPV4), &from_4()].concat(),
        [&outwards()[..], &family(IPV6), &from_6()].concat(),
        [&family(IPV4)[..], &[payload(NETWORK, 12, 1, R0), equal(R0, &[127])], &forwarded(), &[masquerade()]]
            .concat(),
        [
            &family(IPV6)[..],
            &[payload(NETWORK, 8, 16, R0), equal(R0, &loopback)],
            &forwarded(),
            &[masquerade()],
        ]
        .concat(),
        [&family(IPV4)[..], &forwarded(), &from_4()].concat(),
        [&family(IPV6)[..], &forwarded(), &from_6()].concat(),
    ]
}

/// What goes to a machine by a port of the host.
fn forwarded() -> Vec<Expression> {
    [&[meta(OIFNAME, R0), within(LINKS, R0)][..], &connection(2, 0x20)].concat()
}

/// What an expression of somebody's rule does, as far as it matters to whether all packets are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Counts or tells.
    Harmless,
    /// Drops or rejects.
    Refusal,
    /// Sends to another chain.
    Jump(String),
    /// Looks at the packet, or decides something else.
    Condition,
}

/// Reads one.
pub fn seen(expression: Read<'_>) -> Seen {
    const JUMP: i32 = -3;
    const GOTO: i32 = -4;
    let data = expression.nested(2);
    match expression.text(1) {
        Some("counter" | "log" | "notrack") => Seen::Harmless,
        Some("reject") => Seen::Refusal,
        // iptables-nft(8) has rejecting as an extension of its own.
        Some("target") if data.and_then(|data| data.text(1)) == Some("REJECT") => Seen::Refusal,
        Some("immediate") => {
            let verdict = data.and_then(|data| data.nested(2)).and_then(|value| value.nested(2));
            let Some(verdict) = verdict else { return Seen::Condition };
            match (verdict.number(1).map(u32::cast_signed), verdict.text(2)) {
                (Some(0), _) => Seen::Refusal,
                (Some(JUMP | GOTO), Some(chain)) => Seen::Jump(chain.to_owned()),
                _ => Seen::Condition,
            }
        }
        _ => Seen::Condition,
    }
}

/// The way of packets by a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// What comes to it.
    ToHost,
    /// What machines send and get.
    Through,
    /// What it says itself.
    FromHost,
}

impl Way {
    /// The way whose hook has this number, where machines depend on it.
    pub fn of_hook(hook: u32) -> Option<Self> {
        match hook {
            1 => Some(Self::ToHost),
            2 => Some(Self::Through),
            3 => Some(Self::FromHost),
            _ => None,
        }
    }
}

/// Rules that let one interface of machines pass in a chain of somebody else, in words that iptables-nft(8) knows as
/// well: a rule that it does not know would break all of the table for it. What machines may get is
/// judged by our own chains. Where the host itself is meant, it is found as their neighbour, no more.
pub fn passes(way: Way, interface: &str) -> Vec<Vec<Expression>> {
    const ICMPV6: u8 = 58;
    let ways: &[u32] = match way {
        Way::Through => &[IIFNAME, OIFNAME],
        Way::ToHost => &[IIFNAME],
        Way::FromHost => &[OIFNAME],
    };
    let mut rules = Vec::new();
    for name in ways {
        // iifname "ve-NAME" [meta l4proto ipv6-icmp] counter accept
        let mut rule = vec![meta(*name, R0), equal(R0, &padded(interface))];
        if way != Way::Through {
            rule.extend([meta(L4PROTO, R0), equal(R0, &[ICMPV6])]);
        }
        rule.extend([counter(), verdict(ACCEPT)]);
        rules.push(rule);
    }
    rules
}

/// Adds a table of one socket's own that marks packets from an interface with this source port, and
/// the answers to them, for the kernel to tell their way.
pub fn make_trace(batch: &mut Batch, interface: &str, protocol: Protocol, port: u16) {
    const OWNER: u32 = 2;
    const NFTRACE: u32 = 12;
    let name = format!("{TABLE}-trace-{}", std::process::id());
    let own = |attributes: Attributes| attributes.text(1, &name);
    batch.push(Kind::NewTable, Existing::Refuse, &own(Attributes::new()).number(2, OWNER));
    let mut key = interface.as_bytes().to_vec();
    key.resize(16, 0);
    let mark = || {
        let on = Attributes::new().number(1, R0).nested(2, &value(&[1]));
        let set = Attributes::new().number(2, NFTRACE).number(3, R0);
        [expression("immediate", &on), expression("meta", &set)]
    };
    let number = if protocol == Protocol::Udp { UDP } else { TCP };
    let is_protocol = || [meta(L4PROTO, R0), equal(R0, &[number])];
    let asked = [
        &[meta(IIFNAME, R0), equal(R0, &key)][..],
        &is_protocol(),
        &[payload(TRANSPORT, 0, 2, R0), equal(R0, &port.to_be_bytes())],
        &mark(),
    ];
    // The source port of the connection's first packet, before anybody changed it.
    let first = Attributes::new().number(1, R0).number(2, 11).bytes(3, &[0]);
    let answered = [
        &[meta(IIFNAME, R0), differs(R0, &key)][..],
        &is_protocol(),
        &[expression("ct", &first), equal(R0, &port.to_be_bytes())],
        &mark(),
    ];
    // Before everybody, and as soon as connections are known.
    let chains = [("asked", -450, asked.concat()), ("answered", -199, answered.concat())];
    for (chain, priority, rule) in chains {
        let place = Attributes::new().number(1, 0).number(2, i32::cast_unsigned(priority));
        let made = own(Attributes::new()).text(3, chain).nested(4, &place).number(5, ACCEPT);
        batch.push(Kind::NewChain, Existing::Refuse, &made.text(7, "filter"));
        let rule = own(Attributes::new()).text(2, chain).list(4, &rule);
        batch.push(Kind::NewRule, Existing::Keep, &rule);
    }
}
