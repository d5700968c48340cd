//! The share of a machine of the host's table of connections (`net.netfilter.nf_conntrack_max`): connections that it
//! begins, to the host and through it. Those that others begin to its published ports do not count: nobody outside can
//! use up its share. Called by `table`, `admission`, `member` and `part`.
//!
//! The kernel walks the list of a count with each new connection, so a share is counted in parts, of which one is chosen at random.
//! Each machine has a chain and a set of parts: nft(8) aborts at named objects that count connections, and the kernel
//! removes elements without connections from every set but one that rules fill.

use super::commit;
use super::element::{Element, padded};
use super::expression::{
    DROP, Expression, IIFNAME, IIFTYPE, LINK, R0, connection, counter, datatype, equal, expression, jump,
    leads, meta, payload, verdict, within,
};
use super::extras::Extra;
use super::inet::{TABLE, ZONES};
use super::member::Member;
use super::message::{Attributes, Batch, Existing, INET, Kind};
use super::sets;

/// The chain that counts new connections.
pub(super) const CHAIN: &str = "connections";
/// Interface to the chain of its machine.
const LINK_CONNECTIONS: &str = "link-connections";
/// Link-layer address of a machine in a zone to its chain.
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
    sets::verdicts(batch, INET, LINK_CONNECTIONS, (datatype::IFNAME, 16));
    sets::verdicts(batch, INET, ZONE_CONNECTIONS, (datatype::ETHER, 6));
    let chain = Attributes::new().text(1, TABLE).text(3, CHAIN);
    batch.push(Kind::NewChain, Existing::Refuse, &chain);
    counted().iter().for_each(|rule| crate::network::firewall::inet::push_rule(batch, CHAIN, rule));
}

/// Sends packets that begin a connection to the chain.
pub(super) fn begin() -> Vec<Expression> {
    const NEW: u32 = 1 << 3;
    // ct state new jump connections
    [&connection(0, NEW)[..], &[jump(CHAIN)]].concat()
}

/// The rules of the chain.
pub(super) fn counted() -> Vec<Vec<Expression>> {
    const VERDICT: u32 = 0;
    let ethernet = [meta(IIFTYPE, R0), equal(R0, &libc::ARPHRD_ETHER.to_ne_bytes())];
    let zone = [meta(IIFNAME, R0), within(ZONES, R0)];
    let address = [payload(LINK, 6, 6, R0), leads(ZONE_CONNECTIONS, R0, VERDICT)];
    vec![
        // iifname vmap @link-connections
        vec![meta(IIFNAME, R0), leads(LINK_CONNECTIONS, R0, VERDICT)],
        // iifname @zones ether saddr vmap @zone-connections
        [&zone[..], &ethernet, &address].concat(),
    ]
}

/// The name of a machine's chain and of its set.
fn chain_of(member: &Member) -> String {
    format!("{CHAIN}-{}", member.own_interface())
}

/// The rule of a machine's chain.
fn rule(set: &str, most: u32) -> Vec<Expression> {
    const NFTA_NG_DREG: u16 = 1;
    const NFTA_NG_MODULUS: u16 = 2;
    const NFTA_NG_TYPE: u16 = 3;
    const NFTA_DYNSET_SET_NAME: u16 = 1;
    const NFTA_DYNSET_OP: u16 = 3;
    const NFTA_DYNSET_SREG_KEY: u16 = 4;
    const NFTA_DYNSET_EXPR: u16 = 7;
    const NFTA_CONNLIMIT_COUNT: u16 = 1;
    const NFTA_CONNLIMIT_FLAGS: u16 = 2;
    const NFT_CONNLIMIT_F_INV: u32 = 1;
    let part = Attributes::new()
        .number(NFTA_NG_DREG, R0)
        .number(NFTA_NG_MODULUS, PARTS)
        .number(NFTA_NG_TYPE, libc::NFT_NG_RANDOM.cast_unsigned());
    let count = Attributes::new()
        .number(NFTA_CONNLIMIT_COUNT, most.div_ceil(PARTS))
        .number(NFTA_CONNLIMIT_FLAGS, NFT_CONNLIMIT_F_INV);
    let add = Attributes::new()
        .text(NFTA_DYNSET_SET_NAME, set)
        .number(NFTA_DYNSET_OP, libc::NFT_DYNSET_OP_ADD.cast_unsigned())
        .number(NFTA_DYNSET_SREG_KEY, R0)
        .nested(NFTA_DYNSET_EXPR, &expression("connlimit", &count));
    // add @connections-NAME { numgen random mod 32 ct count over N } counter drop
    vec![expression("numgen", &part), expression("dynset", &add), counter(), verdict(DROP)]
}

/// Creates the chain of a machine and its set.
pub(super) fn create(batch: &mut Batch, member: &Member) {
    let Some(most) = member.bounds().connections else { return };
    let name = chain_of(member);
    sets::filled_by_rules(batch, INET, &name, (datatype::MARK, 4), PARTS);
    let chain = Attributes::new().text(1, TABLE).text(3, &name);
    batch.push(Kind::NewChain, Existing::Keep, &chain);
    // A supervisor that was killed leaves the chain with its rule.
    batch.push(Kind::DeleteRule, Existing::Keep, &Attributes::new().text(1, TABLE).text(2, &name));
    crate::network::firewall::inet::push_rule(batch, &name, &rule(&name, most));
}

/// Deletes the chain of a machine and its set, in a batch each: one may be gone.
pub(super) fn delete_each(member: &Member) -> Vec<Batch> {
    let alone = |(kind, attributes): (Kind, Attributes)| {
        let mut batch = Batch::new();
        batch.push(kind, Existing::Keep, &attributes);
        batch
    };
    deleted(member).into_iter().map(alone).collect()
}

/// Deletes the chain of a machine and its set.
pub(super) fn delete(batch: &mut Batch, member: &Member) {
    deleted(member).iter().for_each(|(kind, attributes)| batch.push(*kind, Existing::Keep, attributes));
}

fn deleted(member: &Member) -> Vec<(Kind, Attributes)> {
    if member.bounds().connections.is_none() {
        return Vec::new();
    }
    let name = chain_of(member);
    let chain = Attributes::new().text(1, TABLE).text(3, &name);
    let set = Attributes::new().text(1, TABLE).text(2, &name);
    vec![(Kind::DeleteChain, chain), (Kind::DeleteSet, set)]
}

/// The elements that lead to the chain of a machine, from its link and from the interfaces beside it.
pub(super) fn elements(member: &Member, extras: &[Extra]) -> Vec<Element> {
    if member.bounds().connections.is_none() {
        return Vec::new();
    }
    let (map, own) = match member.zone() {
        Some(_) => (ZONE_CONNECTIONS, member.mac().to_vec()),
        None => (LINK_CONNECTIONS, padded(member.interface())),
    };
    let beside = extras.iter().filter_map(Extra::interface);
    let keys = [(map, own)].into_iter().chain(beside.map(|name| (LINK_CONNECTIONS, padded(name))));
    keys.map(|(map, key)| Element { chain: Some(chain_of(member)), ..Element::of(map, key) }).collect()
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
