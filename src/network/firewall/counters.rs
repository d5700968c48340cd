//! What the tables have dropped so far. Called by the file above. It changes nothing.

use super::expression::DROP;
use super::message;
use super::message::{Attributes, Batch, Kind, Read};
use super::{dump, inet};
use crate::error::{Context, Result};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::BTreeMap;

/// What one chain has dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// How many rules it has.
    pub rules: u64,
    /// Packets dropped.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the chains of both tables have dropped by rules that count; nothing of a table that is not there.
///
/// # Errors
/// What the kernel refuses.
pub fn dropped() -> Result<Vec<Dropped>> {
    let mut chains = Chains::new();
    for (family, word) in [(message::INET, "inet"), (message::BRIDGE, "bridge")] {
        let question = Batch::dump(family, Kind::GetRule, &Attributes::new().text(1, inet::TABLE));
        match dump(&question, |answer| count(answer.body, word, &mut chains)) {
            Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT) => {}
            listed => listed.context(|| "cannot list the rules of the firewall")?,
        }
    }
    Ok(chains.into_values().collect())
}

type Chains = BTreeMap<(String, String), Dropped>;

/// Adds a rule to what its chain has.
fn count(rule: Read<'_>, word: &str, chains: &mut Chains) {
    let (Some(inet::TABLE), Some(chain)) = (rule.text(1), rule.text(2)) else { return };
    let table = format!("{word} {}", inet::TABLE);
    let found = chains.entry((table.clone(), chain.to_owned())).or_insert_with(|| Dropped {
        table,
        chain: chain.to_owned(),
        ..Dropped::default()
    });
    found.rules += 1;
    let drops = rule.list(4).any(|expression| {
        let data = expression.nested(2).filter(|_| expression.text(1) == Some("immediate"));
        let verdict = data.and_then(|data| data.nested(2)?.nested(2)?.number(1));
        verdict == Some(DROP)
    });
    for expression in rule.list(4).filter(|expression| drops && expression.text(1) == Some("counter")) {
        let number = |kind| expression.nested(2).and_then(|data| data.long(kind)).unwrap_or(0);
        found.packets += number(2);
        found.bytes += number(1);
    }
}
