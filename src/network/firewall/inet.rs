//! The table `inet coracle`: sets and maps whose elements machines add and delete, and chains that do not
//! change, so that the hundredth machine costs as much as the first. Every packet of the host passes each
//! base chain. Called by `firewall`.

mod admission;
pub(super) mod antispoof;
mod antispoof_extra;
pub(super) mod connections;
mod input_forward;
mod nat;
pub(super) mod policy_chains;
pub(super) mod sets;

use super::netlink::expression::Rule;
use super::netlink::nlmsg::{Batch, INET, IfExists, Operation};
use super::netlink::table;
use super::netlink::table::{BaseChain, base_chain};

/// The chains without a hook and their rules.
fn chains() -> [(&'static str, Vec<Rule>); 2] {
    [(connections::CHAIN, connections::rules()), (antispoof_extra::CHAIN, antispoof_extra::rules())]
}

/// The base chains and their rules.
fn base_chains() -> [(BaseChain, Vec<Rule>); 8] {
    [
        (antispoof::CHAIN, antispoof::rules()),
        (admission::CHAIN, admission::rules()),
        (input_forward::INPUT, input_forward::input()),
        (input_forward::FORWARD, input_forward::forward()),
        (nat::PREROUTING_DNAT, nat::prerouting_dnat()),
        (nat::INPUT_SNAT, nat::input_snat()),
        (nat::OUTPUT_DNAT, nat::output_dnat()),
        (nat::POSTROUTING_MASQUERADE, nat::postrouting_masquerade()),
    ]
}

/// Creates the table. The transaction fails with EEXIST if it exists.
pub(super) fn create(batch: &mut Batch) {
    table::table(batch, INET, Operation::NewTable, IfExists::Fail);
    sets::create(batch);
    for (name, rules) in chains() {
        table::chain(batch, IfExists::Fail, name);
        table::rules(batch, INET, name, &rules);
    }
    for (chain, rules) in base_chains() {
        base_chain(batch, INET, IfExists::Fail, &chain);
        table::rules(batch, INET, chain.name, &rules);
    }
}

/// Returns the number of rules of each chain.
pub(super) fn rule_counts() -> Vec<(&'static str, usize)> {
    let base_chains = base_chains().map(|(chain, rules)| (chain.name, rules.len()));
    chains().map(|(name, rules)| (name, rules.len())).into_iter().chain(base_chains).collect()
}
