//! The limit of connections that a machine opens, to the host and through it: its share of the host's
//! connection table (`net.netfilter.nf_conntrack_max`). Connections from outside to its published ports do
//! not count: no outside host can exhaust the share. Called by `inet`, `admission`, `part` and the
//! supervisor.
//!
//! The kernel walks the list of a count for each new connection, so a share is counted in parts; each new
//! connection counts in a random part. Each machine has a chain and a set of parts: nft(8) aborts at named
//! objects that count connections, and the kernel deletes elements without connections from dynamic sets
//! alone.

use super::sets::{CONNECTION_LIMIT_BY_LINK, CONNECTION_LIMIT_BY_MAC, ZONE_BRIDGES};
use crate::network::firewall::extra_links::Extra;
use crate::network::firewall::matches::{ether_saddr, is_ethernet};
use crate::network::firewall::member::Member;
use crate::network::firewall::netlink::element::{Element, padded};
use crate::network::firewall::netlink::expression::{
    self, R0, Rule, counter_drop, ct_state, expression, in_set, meta, rule, verdict_map,
};
use crate::network::firewall::netlink::nfta::*;
use crate::network::firewall::netlink::nlmsg::{AttributeBuffer, Batch, INET, IfExists, Operation};
use crate::network::firewall::netlink::table::{self, MARK, chain_name, dynamic_set, flush, set_name};
use crate::network::firewall::netlink::{TABLE, commit};
use libc::NFT_META_IIFNAME;

/// The name of the chain, which has no hook; with a suffix, the chain and the set of a machine.
pub(crate) const CHAIN: &str = "connection-limit";

/// The parts of a share.
const PARTS: u32 = 32;

/// The rule that sends packets of new connections to the chain.
pub(crate) fn jump() -> Rule {
    // ct state new jump connection-limit
    rule(&[&ct_state(NF_CT_STATE_NEW_BIT), &[expression::jump(CHAIN)]])
}

/// The rules of the chain.
pub(crate) fn rules() -> Vec<Rule> {
    let from_zone = [meta(NFT_META_IIFNAME, R0), in_set(ZONE_BRIDGES, R0)];
    let by_mac = [ether_saddr(R0), verdict_map(CONNECTION_LIMIT_BY_MAC, R0)];
    vec![
        // iifname vmap @connection-limit-by-link
        vec![meta(NFT_META_IIFNAME, R0), verdict_map(CONNECTION_LIMIT_BY_LINK, R0)],
        // iifname @zone-bridges ether saddr vmap @connection-limit-by-mac
        rule(&[&from_zone, &is_ethernet(), &by_mac]),
    ]
}

/// The name of a machine's chain and set, and its limit. `None` if the machine has no limit.
fn limit_of(member: &Member) -> Option<(String, u32)> {
    let most = member.policy().connections?;
    Some((format!("{CHAIN}-{}", member.host_end()), most))
}

/// The rule of a machine's chain.
fn machine_rule(set: &str, most: u32) -> Rule {
    let part = AttributeBuffer::new()
        .number(NFTA_NG_DREG, R0)
        .number(NFTA_NG_MODULUS, PARTS)
        .constant(NFTA_NG_TYPE, libc::NFT_NG_RANDOM);
    let count = AttributeBuffer::new()
        .number(NFTA_CONNLIMIT_COUNT, most.div_ceil(PARTS))
        .number(NFTA_CONNLIMIT_FLAGS, NFT_CONNLIMIT_F_INV);
    let add = AttributeBuffer::new()
        .text(NFTA_DYNSET_SET_NAME, set)
        .constant(NFTA_DYNSET_OP, libc::NFT_DYNSET_OP_ADD)
        .number(NFTA_DYNSET_SREG_KEY, R0)
        .nested(NFTA_DYNSET_EXPR, &expression("connlimit", &count));
    // add @SET { numgen random mod 32 ct count over COUNT } counter drop
    rule(&[&[expression("numgen", &part), expression("dynset", &add)], &counter_drop()])
}

/// Creates the chain of a machine and its set.
pub(crate) fn create(batch: &mut Batch, member: &Member) {
    let Some((name, most)) = limit_of(member) else { return };
    dynamic_set(batch, INET, &name, MARK, PARTS);
    table::chain(batch, IfExists::Keep, &name);
    // A killed supervisor leaves the chain with its rule.
    flush(batch, &name);
    table::rules(batch, INET, &name, &[machine_rule(&name, most)]);
}

/// Deletes the chain of a machine and its set.
pub(crate) fn delete(batch: &mut Batch, member: &Member) {
    let Some((name, _)) = limit_of(member) else { return };
    batch.push(Operation::DeleteChain, IfExists::Keep, &chain_name(&name));
    batch.push(Operation::DeleteSet, IfExists::Keep, &set_name(&name));
}

/// Deletes the chain of a machine and its set in a transaction each: one of them may be missing.
pub(crate) fn delete_each(member: &Member) -> Vec<Batch> {
    let Some((name, _)) = limit_of(member) else { return Vec::new() };
    let single = |(operation, name): (Operation, AttributeBuffer)| {
        let mut batch = Batch::new();
        batch.push(operation, IfExists::Keep, &name);
        batch
    };
    [(Operation::DeleteChain, chain_name(&name)), (Operation::DeleteSet, set_name(&name))].map(single).into()
}

/// The elements that jump to the chain of a machine, from its link and its extra links.
pub(crate) fn elements(member: &Member, extras: &[Extra]) -> Vec<Element> {
    let Some((chain, _)) = limit_of(member) else { return Vec::new() };
    let own = match member.zone() {
        Some(_) => Element::new(CONNECTION_LIMIT_BY_MAC, member.mac().octets().to_vec()),
        None => Element::new(CONNECTION_LIMIT_BY_LINK, padded(member.interface())),
    };
    let extras = extras.iter().filter_map(Extra::interface);
    let by_link = extras.map(|name| Element::new(CONNECTION_LIMIT_BY_LINK, padded(name)));
    [own].into_iter().chain(by_link).map(|element| element.with_jump(chain.clone())).collect()
}

/// Whether the kernel can count connections (`CONFIG_NFT_CONNLIMIT`), tried with a table that the same
/// transaction deletes.
pub(crate) fn are_countable() -> bool {
    let name = format!("{TABLE}-{}", std::process::id());
    let table = AttributeBuffer::new().text(NFTA_TABLE_NAME, &name);
    let mut batch = Batch::new();
    batch.push(Operation::NewTable, IfExists::Fail, &table);
    let count = AttributeBuffer::new().number(NFTA_CONNLIMIT_COUNT, 1);
    let object = AttributeBuffer::new()
        .text(NFTA_OBJ_TABLE, &name)
        .text(NFTA_OBJ_NAME, CHAIN)
        .number(NFTA_OBJ_TYPE, NFT_OBJECT_CONNLIMIT)
        .nested(NFTA_OBJ_DATA, &count);
    batch.push(Operation::NewObject, IfExists::Keep, &object);
    batch.push(Operation::DeleteTable, IfExists::Keep, &table);
    commit(batch).is_ok()
}
