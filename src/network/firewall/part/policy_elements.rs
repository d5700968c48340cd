//! The elements and limit objects of a machine's traffic policy. Called by `part`.

use crate::machine::egress::Prefix;
use crate::network::addresses::{IPV6_LENGTH, zone};
use crate::network::firewall::bridge;
use crate::network::firewall::inet::sets;
use crate::network::firewall::member::Member;
use crate::network::firewall::netlink::element::{Element, padded};
use crate::network::firewall::netlink::nlmsg::{BRIDGE, Batch, INET, IfExists, Operation};
use crate::network::firewall::netlink::table::{limit, limit_name};
use crate::network::firewall::traffic_policy::ZoneReach;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first multicast address of IPv6.
const MULTICAST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0));

/// A limit object of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LimitObject {
    /// The map that leads to it.
    map: &'static str,
    name: String,
    /// Bytes per second.
    rate: u64,
}

/// The elements of the traffic policy.
pub(super) fn elements(member: &Member) -> Vec<Element> {
    let ranges = allowed_ranges(member).into_iter().map(|(first, last)| {
        let key = |address| match address {
            IpAddr::V4(address) => [member.mac_key(), address.octets().to_vec()].concat(),
            IpAddr::V6(address) => [member.mac_key(), address.octets().to_vec()].concat(),
        };
        let set = if first.is_ipv4() { sets::EGRESS_DST4 } else { sets::EGRESS_DST6 };
        Element { key_end: Some(key(last)), ..Element::new(set, key(first)) }
    });
    let (family, key) = (limit_family(member), padded(member.host_end()));
    let limits = limits(member).into_iter().map(|limit| Element {
        object: Some(limit.name),
        ..Element::for_family(family, limit.map, key.clone())
    });
    ranges.chain(restricted(member)).chain(limits).collect()
}

/// The elements that mark a machine with restricted destinations.
fn restricted(member: &Member) -> Vec<Element> {
    let policy = member.policy();
    if policy.egress.is_none() {
        return Vec::new();
    }
    let mut elements = vec![Element::new(sets::EGRESS_RESTRICTED, member.mac().octets().to_vec())];
    if let Some(port) = member.zone_port() {
        let element = |set| Element::for_family(BRIDGE, set, member.mac().octets().to_vec());
        elements.push(element(bridge::EGRESS_RESTRICTED));
        elements.push(element(bridge::VIA_HOST).with_data(port.bridge_mac.octets().to_vec()));
        if policy.zone_reach == ZoneReach::All {
            elements.push(element(bridge::ZONE_REACH));
        }
    }
    elements
}

/// The ranges of allowed destinations: those of the definition, and those of the zone except the host if the
/// machine reaches all of it.
fn allowed_ranges(member: &Member) -> Vec<(IpAddr, IpAddr)> {
    let policy = member.policy();
    let defined = policy.egress.iter().flatten();
    let mut ranges: Vec<_> = defined.map(|range| (range.first(), range.last())).collect();
    if member.zone().is_some() && policy.egress.is_some() && policy.zone_reach == ZoneReach::All {
        let (ipv4, ipv6) = member.addresses();
        let own = [Prefix::new(ipv4.into(), member.ipv4_length()), Prefix::new(ipv6.into(), IPV6_LENGTH)];
        let own = own.into_iter().flatten();
        ranges.extend(own.map(|own| (zone::first_machine(own.first()), own.last())));
        // The host receives multicast and broadcast packets of a zone too.
        let groups =
            [(Ipv4Addr::new(224, 0, 0, 0).into(), 4), (Ipv4Addr::BROADCAST.into(), 32), (MULTICAST6, 8)];
        let groups = groups.into_iter().filter_map(|(address, length)| Prefix::new(address, length));
        ranges.extend(groups.map(|range| (range.first(), range.last())));
    }
    without_overlaps(ranges)
}

/// Merges overlapping ranges, which the kernel refuses.
fn without_overlaps(mut ranges: Vec<(IpAddr, IpAddr)>) -> Vec<(IpAddr, IpAddr)> {
    ranges.sort();
    let mut merged: Vec<(IpAddr, IpAddr)> = Vec::new();
    for (first, last) in ranges {
        let overlaps =
            |before: &&mut (IpAddr, IpAddr)| before.1 >= first && before.1.is_ipv4() == first.is_ipv4();
        match merged.last_mut().filter(overlaps) {
            Some(before) => before.1 = before.1.max(last),
            None => merged.push((first, last)),
        }
    }
    merged
}

/// The family of the table that limits the machine's rates. In a zone that is the table of its port: all
/// machines share the interface.
fn limit_family(member: &Member) -> u8 {
    if member.zone().is_some() { BRIDGE } else { INET }
}

/// The limit objects of a machine.
pub(super) fn limits(member: &Member) -> Vec<LimitObject> {
    let policy = member.policy();
    let limit = |(map, direction, rate): (_, &str, Option<u64>)| {
        let name = format!("{}-{direction}", member.host_end());
        Some(LimitObject { map, name, rate: rate? / 8 })
    };
    // Both tables have these names.
    let rates = [(sets::RATES_IN, "in", policy.rate_in), (sets::RATES_OUT, "out", policy.rate_out)];
    rates.into_iter().filter_map(limit).collect()
}

/// Creates the limit objects.
pub(super) fn create_limits(batch: &mut Batch, member: &Member) {
    let family = limit_family(member);
    for LimitObject { name, rate, .. } in limits(member) {
        batch.push_for(family, Operation::NewObject, IfExists::Keep, &limit(&name, rate));
    }
}

/// Deletes the limit objects.
pub(super) fn delete_limits(batch: &mut Batch, member: &Member) {
    limits(member).iter().for_each(|limit| delete_limit(batch, member, limit));
}

/// Deletes the limit objects in a transaction each: some may be missing.
pub(super) fn delete_each_limit(member: &Member) -> Vec<Batch> {
    let single = |limit: &LimitObject| {
        let mut batch = Batch::new();
        delete_limit(&mut batch, member, limit);
        batch
    };
    limits(member).iter().map(single).collect()
}

fn delete_limit(batch: &mut Batch, member: &Member, limit: &LimitObject) {
    let name = limit_name(&limit.name);
    batch.push_for(limit_family(member), Operation::DeleteObject, IfExists::Keep, &name);
}
