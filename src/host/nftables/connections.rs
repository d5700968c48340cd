//! The share of a machine of the host's table of connections (`net.netfilter.nf_conntrack_max`): connections that it
//! begins, to the host and through it. Those that others begin to its published ports do not count: nobody outside can
//! use up its share. Called by `table`, `admission`, `member` and `part`.
//!
//! The kernel walks the list of a count with each new connection, so a share is counted in parts; a hash of the
//! connection chooses one.

use super::element::{Element, padded};
use super::expression::{
    DROP, Expression, IIFNAME, IIFTYPE, IPV4, IPV6, LINK, NETWORK, R0, connection, counter, datatype, equal,
    expression, family, jump, meta, payload, verdict, within,
};
use super::member::Member;
use super::message::{Attributes, Batch, Existing, INET, Kind};
use super::sets::{connection_limit, connection_limit_name, connections};
use super::table::{TABLE, ZONES};
use super::{commit, extras::Extra};

/// The chain that counts new connections.
pub(super) const CHAIN: &str = "connections";
/// Interface and part of the share to its count.
const LINK_CONNECTIONS: &str = "link-connections";
/// Link-layer address of a machine in a zone and part of the share to its count.
const ZONE_CONNECTIONS: &str = "zone-connections";

/// The parts of a share.
const PARTS: u32 = 32;
/// The largest share that a definition without one gives.
const DEFAULT: u32 = 32_768;
/// The part of the host's table that such a share is at most.
const FRACTION: u32 = 8;

/// The most connections of a machine whose definition has this number, [`u64::MAX`] for no limit.
pub(super) fn share(defined: Option<u64>) -> Option<u32> {
    match defined {
        Some(u64::MAX) => None,
        Some(most) => Some(u32::try_from(most).unwrap_or(u32::MAX)),
        None => {
            let file = "/proc/sys/net/netfilter/nf_conntrack_max";
            let table = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u32>().ok());
            Some(table.map_or(DEFAULT, |most| DEFAULT.min(most / FRACTION)))
        }
    }
}

/// Creates the maps and the chain.
pub(super) fn make(batch: &mut Batch) {
    let part = (datatype::MARK, 4);
    connections(batch, INET, LINK_CONNECTIONS, &[(datatype::IFNAME, 16), part]);
    connections(batch, INET, ZONE_CONNECTIONS, &[(datatype::ETHER, 6), part]);
    let chain = Attributes::new().text(1, TABLE).text(3, CHAIN);
    batch.push(Kind::NewChain, Existing::Refuse, &chain);
    counted().iter().for_each(|rule| super::table::push_rule(batch, CHAIN, rule));
}

/// Sends packets that begin a connection to the chain.
pub(super) fn begin() -> Vec<Expression> {
    const NEW: u32 = 1 << 3;
    // ct state new jump connections
    [&connection(0, NEW)[..], &[jump(CHAIN)]].concat()
}

/// The rules of the chain.
pub(super) fn counted() -> Vec<Vec<Expression>> {
    let over = |map| {
        const NFTA_OBJREF_SET_SREG: u16 = 3;
        const NFTA_OBJREF_SET_NAME: u16 = 4;
        let object = Attributes::new().number(NFTA_OBJREF_SET_SREG, R0).text(NFTA_OBJREF_SET_NAME, map);
        [expression("objref", &object), counter(), verdict(DROP)]
    };
    let by_link = |version, offset, length| {
        let key = [meta(IIFNAME, R0)];
        [&family(version)[..], &part(offset, length, R0 + 4), &key, &over(LINK_CONNECTIONS)].concat()
    };
    let by_zone = |version, offset, length| {
        let zone = [meta(IIFNAME, R0), within(ZONES, R0)];
        let ethernet = [meta(IIFTYPE, R0), equal(R0, &libc::ARPHRD_ETHER.to_ne_bytes())];
        let key = [payload(LINK, 6, 6, R0)];
        [&family(version)[..], &zone, &ethernet, &part(offset, length, R0 + 2), &key, &over(ZONE_CONNECTIONS)]
            .concat()
    };
    vec![
        // iifname . jhash ip daddr . ct original proto-src . ct original proto-dst mod 32 @link-connections
        // counter drop
        by_link(IPV4, 16, 4),
        // iifname . jhash ip6 daddr . ct original proto-src . ct original proto-dst mod 32 @link-connections
        // counter drop
        by_link(IPV6, 24, 16),
        // iifname @zones ether saddr . jhash ip daddr . … mod 32 @zone-connections counter drop
        by_zone(IPV4, 16, 4),
        // iifname @zones ether saddr . jhash ip6 daddr . … mod 32 @zone-connections counter drop
        by_zone(IPV6, 24, 16),
    ]
}

/// Loads the part of the share that a connection counts in: a hash of the destination and both ports.
fn part(offset: u32, length: u32, register: u32) -> [Expression; 4] {
    const NFT_CT_PROTO_SRC: u32 = 11;
    const NFT_CT_PROTO_DST: u32 = 12;
    const NFTA_HASH_SREG: u16 = 1;
    const NFTA_HASH_DREG: u16 = 2;
    const NFTA_HASH_LEN: u16 = 3;
    const NFTA_HASH_MODULUS: u16 = 4;
    const NFTA_CT_DIRECTION: u16 = 3;
    const ORIGINAL: u8 = 0;
    /// Behind all keys.
    const HASHED: u32 = R0 + 6;
    let ports = HASHED + length / 4;
    let port = |key, register| {
        let data = Attributes::new().number(1, register).number(2, key);
        expression("ct", &data.bytes(NFTA_CT_DIRECTION, &[ORIGINAL]))
    };
    let hash = Attributes::new().number(NFTA_HASH_SREG, HASHED).number(NFTA_HASH_DREG, register);
    let hash = hash.number(NFTA_HASH_LEN, length + 8).number(NFTA_HASH_MODULUS, PARTS);
    [
        payload(NETWORK, offset, length, HASHED),
        port(NFT_CT_PROTO_SRC, ports),
        port(NFT_CT_PROTO_DST, ports + 1),
        expression("hash", &hash),
    ]
}

/// The counts of a machine by name, with the most of each.
fn counts(member: &Member) -> impl Iterator<Item = (u32, String, u32)> {
    let most = member.bounds().connections;
    let name = member.own_interface().to_owned();
    most.into_iter().flat_map(move |most| {
        let name = name.clone();
        (0..PARTS).map(move |part| (part, format!("{name}-connections-{part}"), most.div_ceil(PARTS)))
    })
}

/// Creates the counts of a machine.
pub(super) fn create(batch: &mut Batch, member: &Member) {
    for (_, name, most) in counts(member) {
        batch.push(Kind::NewObject, Existing::Keep, &connection_limit(&name, most));
    }
}

/// Deletes the counts of a machine, in a batch each: one may be gone.
pub(super) fn delete_each(member: &Member) -> Vec<Batch> {
    let alone = |(_, name, _): (u32, String, u32)| {
        let mut batch = Batch::new();
        batch.push(Kind::DeleteObject, Existing::Keep, &connection_limit_name(&name));
        batch
    };
    counts(member).map(alone).collect()
}

/// Deletes the counts of a machine.
pub(super) fn delete(batch: &mut Batch, member: &Member) {
    for (_, name, _) in counts(member) {
        batch.push(Kind::DeleteObject, Existing::Keep, &connection_limit_name(&name));
    }
}

/// The elements that lead to the counts of a machine, from its link and from the interfaces beside it.
pub(super) fn elements(member: &Member, extras: &[Extra]) -> Vec<Element> {
    let (map, own) = match member.zone() {
        Some(_) => (ZONE_CONNECTIONS, [&member.mac()[..], &[0, 0]].concat()),
        None => (LINK_CONNECTIONS, padded(member.interface())),
    };
    let beside = extras.iter().filter_map(Extra::interface);
    let keys: Vec<_> =
        [(map, own)].into_iter().chain(beside.map(|name| (LINK_CONNECTIONS, padded(name)))).collect();
    let leading = |(part, name, _): (u32, String, u32)| {
        keys.iter()
            .map(|(map, key)| Element {
                object: Some(name.clone()),
                ..Element::of(map, [&key[..], &part.to_ne_bytes()].concat())
            })
            .collect::<Vec<Element>>()
    };
    counts(member).flat_map(leading).collect()
}

/// Whether the kernel can count connections (`CONFIG_NFT_CONNLIMIT`).
pub fn is_supported() -> bool {
    let name = format!("{TABLE}-{}", std::process::id());
    let table = Attributes::new().text(1, &name);
    let mut batch = Batch::new();
    batch.push(Kind::NewTable, Existing::Refuse, &table);
    let count = Attributes::new().number(1, 1);
    let object = Attributes::new().text(1, &name).text(2, CHAIN).number(3, 5).nested(4, &count);
    batch.push(Kind::NewObject, Existing::Keep, &object);
    batch.push(Kind::DeleteTable, Existing::Keep, &table);
    commit(batch).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_raises_the_share() {
        assert_eq!(share(Some(100)), Some(100));
        assert_eq!(share(Some(u64::MAX)), None);
        assert_eq!(share(Some(1 << 40)), Some(u32::MAX));
        assert!(share(None).is_some_and(|most| most <= DEFAULT));
    }
}
