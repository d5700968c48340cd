//! The packets that the rules of the tables have dropped, by chain and by machine. Called by `firewall` and
//! `control`. It only reads.

use super::netlink::nfta::*;
use super::netlink::nlmsg::{AttributeBuffer, AttributeReader, BRIDGE, Batch, INET, Operation};
use super::netlink::table::set_name;
use super::netlink::{TABLE, dump};
use super::part::{DropCount, Part};
use crate::error::{Context, Result};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::BTreeMap;

/// The dropped packets of a chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// The family and the name of its table.
    pub(crate) table: String,
    /// Its name.
    pub(crate) chain: String,
    /// The number of its rules.
    pub rules: u64,
    /// Packets.
    pub(crate) packets: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// The dropped packets of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// With a forged source address or a loopback destination.
    pub(crate) forged: u64,
    /// To destinations that the machine's policy does not allow.
    pub(crate) refused: u64,
}

/// Returns the dropped packets of each chain of both tables. A missing table has no chains.
///
/// # Errors
/// Any error of the kernel.
pub fn dropped() -> Result<Vec<Dropped>> {
    let mut chains = Chains::new();
    let table = AttributeBuffer::new().text(NFTA_RULE_TABLE, TABLE);
    for (family, word) in [(INET, "inet"), (BRIDGE, "bridge")] {
        let request = Batch::dump_request(family, Operation::GetRule, &table);
        match dump(&request, |reply| add_rule(reply.body, word, &mut chains)) {
            Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT) => {}
            listed => listed.context(|| "cannot list the rules of the firewall")?,
        }
    }
    Ok(chains.into_values().collect())
}

type Chains = BTreeMap<(String, String), Dropped>;

/// Adds the counter of a rule to its chain.
fn add_rule(rule: AttributeReader<'_>, word: &str, chains: &mut Chains) {
    let (Some(TABLE), Some(chain)) = (rule.text(NFTA_RULE_TABLE), rule.text(NFTA_RULE_CHAIN)) else { return };
    let table = format!("{word} {TABLE}");
    let dropped = chains.entry((table.clone(), chain.to_owned())).or_insert_with(|| Dropped {
        table,
        chain: chain.to_owned(),
        ..Dropped::default()
    });
    dropped.rules += 1;
    let is = |expression: &AttributeReader<'_>, name| expression.text(NFTA_EXPR_NAME) == Some(name);
    let drops = |expression: AttributeReader<'_>| {
        let value = expression.nested(NFTA_EXPR_DATA)?.nested(NFTA_IMMEDIATE_DATA)?;
        value.nested(NFTA_DATA_VERDICT)?.constant(NFTA_VERDICT_CODE)
    };
    let expressions = || rule.list(NFTA_RULE_EXPRESSIONS);
    if !expressions().any(|one| is(&one, "immediate") && drops(one) == Some(libc::NF_DROP)) {
        return;
    }
    for counter in expressions().filter(|one| is(one, "counter")) {
        let number = |kind| counter.nested(NFTA_EXPR_DATA).and_then(|data| data.long(kind)).unwrap_or(0);
        dropped.packets += number(NFTA_COUNTER_PACKETS);
        dropped.bytes += number(NFTA_COUNTER_BYTES);
    }
}

/// Returns the dropped packets of a machine. `None` if a table is missing.
pub fn of_machine(part: Part<'_>) -> Option<Counters> {
    let mut counters = Counters::default();
    for DropCount { family, set, key, is_forged } in part.drop_counts() {
        let counter = if is_forged { &mut counters.forged } else { &mut counters.refused };
        // The names of sets and of lists of elements have the same attributes.
        let request = Batch::dump_request(family, Operation::GetElements, &set_name(set));
        dump(&request, |reply| *counter += element_packets(&key, reply.body)).ok()?;
    }
    Some(counters)
}

/// Returns the packets that the element with this key has counted.
fn element_packets(key: &[u8], reply: AttributeReader<'_>) -> u64 {
    let packets = |element: AttributeReader<'_>| {
        let found = element.nested(NFTA_SET_ELEM_KEY)?.bytes(NFTA_DATA_VALUE)?;
        let counter = element.nested(NFTA_SET_ELEM_EXPR)?.nested(NFTA_EXPR_DATA)?;
        found.starts_with(key).then(|| counter.long(NFTA_COUNTER_PACKETS)).flatten()
    };
    reply.list(NFTA_SET_ELEM_LIST_ELEMENTS).find_map(packets).unwrap_or(0)
}
