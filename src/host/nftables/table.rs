//! The table `inet coracle`: sets and maps that machines come to and go from, and chains that never
//! change, so that the hundredth machine costs what the first did. Called by the file above.

use super::message::{Attributes, Batch, Existing, Kind};
use std::net::Ipv6Addr;

/// The table's name.
pub const TABLE: &str = "coracle";
/// The hosts' ends of the links of machines.
pub const LINKS: &str = "links";
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
/// Numbers of protocols.
pub const TCP: u8 = 6;
/// The same for datagrams.
pub const UDP: u8 = 17;

/// nft's numbers of types, for those who list the table.
pub(super) mod datatype {
    pub const IPV4: u32 = 7;
    pub const IPV6: u32 = 8;
    pub const ETHER: u32 = 9;
    pub const PROTOCOL: u32 = 12;
    pub const SERVICE: u32 = 13;
    pub const IFNAME: u32 = 41;
}

/// Registers of four bytes; the first four make the register that holds an interface name.
pub(super) const R0: u32 = 8;
pub(super) const ETHER_AT: u32 = R0 + 4;
pub(super) const ADDRESS_AT: u32 = R0 + 6;

pub(super) const ACCEPT: u32 = 1;
pub(super) const DROP: u32 = 0;
/// `META_*` keys.
pub(super) const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const IIFTYPE: u32 = 8;
const NFPROTO: u32 = 15;
pub(super) const L4PROTO: u32 = 16;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// Bases of payload.
pub(super) const LINK: u32 = 0;
pub(super) const NETWORK: u32 = 1;
pub(super) const TRANSPORT: u32 = 2;

/// One expression of a rule.
pub(super) type Expression = Attributes;

fn expression(name: &str, data: &Attributes) -> Expression {
    Attributes::new().text(1, name).nested(2, data)
}

pub(super) fn value(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(1, bytes)
}

pub(super) fn meta(key: u32, register: u32) -> Expression {
    expression("meta", &Attributes::new().number(1, register).number(2, key))
}

pub(super) fn payload(base: u32, offset: u32, length: u32, register: u32) -> Expression {
    let data = Attributes::new().number(1, register).number(2, base).number(3, offset).number(4, length);
    expression("payload", &data)
}

pub(super) fn equal(register: u32, bytes: &[u8]) -> Expression {
    expression("cmp", &Attributes::new().number(1, register).number(2, 0).nested(3, &value(bytes)))
}

fn differs(register: u32, bytes: &[u8]) -> Expression {
    expression("cmp", &Attributes::new().number(1, register).number(2, 1).nested(3, &value(bytes)))
}

fn mask(register: u32, mask: &[u8]) -> Expression {
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    let data = Attributes::new().number(1, register).number(2, register).number(3, length);
    expression("bitwise", &data.nested(4, &value(mask)).nested(5, &value(&vec![0; mask.len()])))
}

pub(super) fn within(set: &str, register: u32) -> Expression {
    expression("lookup", &Attributes::new().text(1, set).number(2, register))
}

pub(super) fn outside(set: &str, register: u32) -> Expression {
    expression("lookup", &Attributes::new().text(1, set).number(2, register).number(5, 1))
}

pub(super) fn verdict(code: u32) -> Expression {
    let verdict = Attributes::new().nested(2, &Attributes::new().number(1, code));
    expression("immediate", &Attributes::new().number(1, 0).nested(2, &verdict))
}

pub(super) fn counter() -> Expression {
    expression("counter", &Attributes::new())
}

/// Takes the address of the interface it goes out of.
fn masquerade() -> Expression {
    expression("masq", &Attributes::new())
}

/// Bits of the state of a connection (key 0) or of its status (key 2).
fn connection(key: u32, bits: u32) -> [Expression; 3] {
    let load = expression("ct", &Attributes::new().number(1, R0).number(2, key));
    [load, mask(R0, &bits.to_ne_bytes()), differs(R0, &[0; 4])]
}

fn family(family: u8) -> [Expression; 2] {
    [meta(NFPROTO, R0), equal(R0, &[family])]
}

/// Where packets are met, and when.
struct Hook {
    name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
}

const GUARD: Hook = Hook { name: "guard", kind: "filter", hook: 0, priority: -300 };
const FORWARD: Hook = Hook { name: "forward", kind: "filter", hook: 2, priority: 0 };
const ENTER: Hook = Hook { name: "enter", kind: "nat", hook: 0, priority: -100 };
const LOCAL: Hook = Hook { name: "local", kind: "nat", hook: 3, priority: -100 };
const LEAVE: Hook = Hook { name: "leave", kind: "nat", hook: 4, priority: 100 };

/// Makes the table, where it is not there.
pub fn make(batch: &mut Batch) {
    batch.push(Kind::NewTable, Existing::Refuse, &Attributes::new().text(1, TABLE));
    set(batch, LINKS, &[(datatype::IFNAME, 16)]);
    set(batch, SOURCES_4, &[(datatype::IFNAME, 16), (datatype::ETHER, 6), (datatype::IPV4, 4)]);
    set(batch, SOURCES_6, &[(datatype::IFNAME, 16), (datatype::ETHER, 6), (datatype::IPV6, 16)]);
    set(batch, ZONES, &[(datatype::IFNAME, 16)]);
    set(batch, SAME_ZONE, &[(datatype::IFNAME, 16), (datatype::IFNAME, 16)]);
    set(batch, INSIDE_4, &[(datatype::IPV4, 4)]);
    set(batch, INSIDE_6, &[(datatype::IPV6, 16)]);
    let place = [(datatype::PROTOCOL, 1), (datatype::SERVICE, 2)];
    let (ipv4, ipv6) = ((datatype::IPV4, 4), (datatype::IPV6, 16));
    map(batch, PORTS_4, &place, &[ipv4, place[1]]);
    map(batch, PORTS_6, &place, &[ipv6, place[1]]);
    map(batch, AT_4, &[ipv4, place[0], place[1]], &[ipv4, place[1]]);
    map(batch, AT_6, &[ipv6, place[0], place[1]], &[ipv6, place[1]]);
    let chains =
        [(GUARD, guard()), (FORWARD, forward()), (ENTER, ports()), (LOCAL, ports()), (LEAVE, leave())];
    for (hook, rules) in chains {
        chain(batch, &hook);
        for rule in rules {
            let rule = Attributes::new().text(1, TABLE).text(2, hook.name).list(4, &rule);
            batch.push(Kind::NewRule, Existing::Keep, &rule);
        }
    }
}

fn chain(batch: &mut Batch, Hook { name, kind, hook, priority }: &Hook) {
    let place = Attributes::new().number(1, *hook).number(2, priority.cast_unsigned());
    let chain = Attributes::new().text(1, TABLE).text(3, name).nested(4, &place).number(5, ACCEPT);
    batch.push(Kind::NewChain, Existing::Refuse, &chain.text(7, kind));
}

/// The number of a type of several fields, and its length.
fn joined(fields: &[(u32, u32)]) -> (u32, u32) {
    let kind = fields.iter().fold(0, |kinds, (kind, _)| kinds << 6 | kind);
    (kind, fields.iter().map(|(_, length)| length.next_multiple_of(4)).sum())
}

/// A set whose keys are these fields, each a type and its length.
fn set(batch: &mut Batch, name: &str, key: &[(u32, u32)]) {
    batch.push(Kind::NewSet, Existing::Refuse, &keyed(name, key).number(3, 0));
}

/// A map from keys to data.
fn map(batch: &mut Batch, name: &str, key: &[(u32, u32)], data: &[(u32, u32)]) {
    const MAP: u32 = 8;
    let (kind, length) = joined(data);
    let map = keyed(name, key).number(3, MAP).number(6, kind).number(7, length);
    batch.push(Kind::NewSet, Existing::Refuse, &map);
}

pub(super) fn keyed(name: &str, key: &[(u32, u32)]) -> Attributes {
    // For nft(8), which shows names wrong without: record 0, the order of the key's bytes, is the host's.
    const HOST_ORDER: u32 = 1;
    const NETWORK_ORDER: u32 = 2;
    let (kind, length) = joined(key);
    let order = if kind == datatype::IFNAME { HOST_ORDER } else { NETWORK_ORDER };
    let set = Attributes::new().text(1, TABLE).text(2, name).number(4, kind).number(5, length);
    // The id is for messages of one transaction that mean a set without a name.
    set.number(10, 1).bytes(13, &[&[0, 4][..], &order.to_ne_bytes()].concat())
}

/// What a machine sends has its own addresses, or goes no further. Before connections are
/// tracked: a forged packet makes none.
fn guard() -> Vec<Vec<Expression>> {
    const PREFIX: [u8; 16] = [255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0];
    let sender = || {
        let ethernet = [meta(IIFTYPE, R0), equal(R0, &1_u16.to_ne_bytes())];
        ethernet.into_iter().chain([meta(IIFNAME, R0), payload(LINK, 6, 6, ETHER_AT)])
    };
    let ipv4_sender = family(IPV4).into_iter().chain(sender());
    let ipv6_sender = family(IPV6).into_iter().chain(sender());
    vec![
        vec![meta(IIFNAME, R0), outside(LINKS, R0), verdict(ACCEPT)],
        // Forwarded ports make the host answer its own loopback addresses on these links.
        [&family(IPV4)[..], &[payload(NETWORK, 16, 1, R0), equal(R0, &[127]), counter(), verdict(DROP)]]
            .concat(),
        ipv4_sender
            .chain([payload(NETWORK, 12, 4, ADDRESS_AT), within(SOURCES_4, R0), verdict(ACCEPT)])
            .collect(),
        // Who asks by DHCP has no address yet.
        [
            &family(IPV4)[..],
            &[payload(NETWORK, 12, 4, R0), equal(R0, &[0; 4]), meta(L4PROTO, R0), equal(R0, &[UDP])],
            &[payload(TRANSPORT, 2, 2, R0), equal(R0, &67_u16.to_be_bytes()), verdict(ACCEPT)],
        ]
        .concat(),
        ipv6_sender
            .chain([payload(NETWORK, 8, 16, ADDRESS_AT), mask(ADDRESS_AT, &PREFIX)])
            .chain([within(SOURCES_6, R0), verdict(ACCEPT)])
            .collect(),
        // Link-local and unspecified addresses: neighbours are found with them, no router passes them on.
        [
            &family(IPV6)[..],
            &[payload(NETWORK, 8, 2, R0), mask(R0, &[0xff, 0xc0]), equal(R0, &[0xfe, 0x80])],
            &[verdict(ACCEPT)],
        ]
        .concat(),
        [&family(IPV6)[..], &[payload(NETWORK, 8, 16, R0), equal(R0, &[0; 16]), verdict(ACCEPT)]].concat(),
        vec![counter(), verdict(DROP)],
    ]
}

/// Nobody from outside gets to a machine but with an answer or by a forwarded port.
fn forward() -> Vec<Vec<Expression>> {
    let to_machine = || [meta(OIFNAME, R0), within(LINKS, R0)];
    vec![
        vec![meta(OIFNAME, R0), outside(LINKS, R0), verdict(ACCEPT)],
        // Established or related.
        [&connection(0, 2 | 4)[..], &[verdict(ACCEPT)]].concat(),
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
        rule.push(expression("lookup", &Attributes::new().text(1, map).number(2, R0).number(3, found)));
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
    const PREFIX: [u8; 16] = [255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0];
    let outwards = || [meta(OIFNAME, R0), outside(LINKS, R0)];
    let loopback = Ipv6Addr::LOCALHOST.octets();
    let from_4 = || [payload(NETWORK, 12, 4, R0), within(INSIDE_4, R0), masquerade()];
    let from_6 = || [payload(NETWORK, 8, 16, R0), mask(R0, &PREFIX), within(INSIDE_6, R0), masquerade()];
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
