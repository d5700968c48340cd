//! The firewall: the tables `inet coracle` and `bridge coracle`, written over netlink without nft(8). The
//! first machine creates them, the last deletes them. Called by the supervisor, which names a machine's part
//! in the state record first, and by `cleanup`. Own code, because the available crates link C, run nft(8), or
//! lack masquerading and connection states.

mod bridge;
pub(crate) mod coexist;
pub mod counters;
pub(crate) mod deletions;
mod extra_links;
mod forwarding;
mod inet;
mod matches;
mod member;
mod netlink;
mod part;
#[cfg(test)]
mod tests;
pub(crate) mod trace;
mod traffic_policy;

pub(crate) use extra_links::Extra;
pub(crate) use forwarding::Forwarding;
pub(crate) use inet::connections::are_countable as can_count_connections;
pub(crate) use inet::policy_chains::PolicyChain;
pub use member::Member;
pub use netlink::Nfnetlink;
pub use part::{Others, Part};
pub use traffic_policy::TrafficPolicy;

use crate::error::{Context, Error, Result};
use netlink::element::Element;
use netlink::nlmsg::{BRIDGE, Batch, INET, IfExists, Operation};
use netlink::table::{table, table_name};
use netlink::{TABLE, commit, ignore_missing, send};
use rustix::io::Errno;

/// The attempts to change the tables while other processes create and delete them.
const ATTEMPTS: usize = 3;

/// The result of adding a machine.
#[derive(Debug)]
pub enum Added {
    /// The machine is in the tables.
    Done,
    /// The kernel has no nftables, or no NAT in it.
    Unsupported(Error),
    /// A table `coracle` exists and has other chains or sets: [`recreate`] creates it again.
    Incompatible,
}

/// Adds a machine to the tables, and creates missing tables. A machine that is in them stays.
///
/// # Errors
/// Any error of the kernel.
pub fn add(part: Part<'_>) -> Result<Added> {
    let doing = || format!("cannot set up the firewall of '{}'", part.interface());
    // Another process may create or delete the table between the request and the transaction.
    let mut is_incompatible = false;
    for _ in 0..ATTEMPTS {
        let mut batch = Batch::new();
        // Requested first: a failing transaction waits until no processor uses the old rules.
        let mut existed = table_exists(INET);
        if !existed {
            inet::create(&mut batch);
        }
        if part.is_bridged() {
            if table_exists(BRIDGE) {
                existed = true;
            } else {
                bridge::create(&mut batch);
            }
        }
        part.create(&mut batch);
        match commit(batch) {
            Ok(()) => return Ok(Added::Done),
            Err(Errno::EXIST) => {}
            // A chain or set is missing (ENOENT), or a set has other keys (EINVAL).
            Err(Errno::NOENT | Errno::INVAL) if existed => is_incompatible = true,
            Err(errno @ (Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::NOENT)) => {
                return Ok(Added::Unsupported(unsupported(Error::from(errno).context(doing()))));
            }
            Err(errno) => return Err(errno).context(doing),
        }
    }
    if is_incompatible {
        return Ok(Added::Incompatible);
    }
    let message = format!("gave up after {ATTEMPTS} attempts: another program keeps changing the ruleset");
    Err(Error::new(message).context(doing()))
}

/// Creates the tables again with these machines, without a moment in which they are missing. Needed if
/// another program deletes or flushes them, or if another version of Coracle created them.
///
/// # Errors
/// Any error of the kernel.
pub(crate) fn recreate(parts: &[Part<'_>]) -> Result<()> {
    /// A transaction has to fit into a socket's buffer.
    const MOST: usize = 96 << 10;
    let doing = || "cannot create the firewall table 'inet coracle' again";
    let mut batch = Batch::new();
    delete_and_create(&mut batch, INET, inet::create);
    if parts.iter().any(Part::is_bridged) {
        delete_and_create(&mut batch, BRIDGE, bridge::create);
    }
    for part in parts {
        part.create(&mut batch);
        if batch.length() > MOST {
            commit(std::mem::replace(&mut batch, Batch::new())).context(doing)?;
        }
    }
    commit(batch).context(doing)
}

/// Deletes a table that need not exist, and creates it.
fn delete_and_create(batch: &mut Batch, family: u8, create: fn(&mut Batch)) {
    table(batch, family, Operation::NewTable, IfExists::Keep);
    table(batch, family, Operation::DeleteTable, IfExists::Keep);
    create(batch);
}

/// Changes the link of a running machine.
///
/// # Errors
/// Any error of the kernel: then nothing has changed.
pub(crate) fn change(before: &Member, after: &Member, extras: &[Extra]) -> Result<()> {
    let mut batch = Batch::new();
    Part { member: Some(before), extras, forwarding: None }.change(after, &mut batch);
    commit(batch).context(|| format!("cannot change the firewall of '{}'", before.interface()))
}

/// Whether the tables have all rules, and all elements of a machine.
pub(crate) fn is_complete(part: Part<'_>) -> bool {
    let Ok(chains) = counters::dropped() else { return false };
    let has = |word: &str, (chain, count): &(&str, usize)| {
        let table = format!("{word} {TABLE}");
        let is_chain = |found: &&counters::Dropped| found.table == table && found.chain == *chain;
        chains.iter().find(is_chain).is_some_and(|found| found.rules == *count as u64)
    };
    let bridged = if part.is_bridged() { bridge::rule_counts() } else { Vec::new() };
    let exists = |element: &Element| {
        send(&Batch::request(element.family, Operation::GetElements, &element.request())).is_ok()
    };
    inet::rule_counts().iter().all(|count| has("inet", count))
        && bridged.iter().all(|count| has("bridge", count))
        && part.own_elements(Others::default()).iter().filter(|element| element.is_single()).all(exists)
}

/// Deletes a machine from the tables, and the tables that no other machine needs. Missing objects are not an
/// error.
///
/// # Errors
/// Any error of the kernel.
pub fn remove(socket: &Nfnetlink, part: Part<'_>, others: Others) -> Result<()> {
    let doing = || format!("cannot remove '{}' from the firewall", part.interface());
    if part.is_bridged() && !others.zoned {
        delete_table(socket, BRIDGE)?;
    }
    if !others.any {
        return delete_table(socket, INET);
    }
    let mut batch = Batch::new();
    part.delete(&mut batch, others);
    match socket.commit(batch) {
        Err(Errno::NOENT | Errno::INVAL) => {}
        other => return other.context(doing),
    }
    // Some of its objects are missing: each is deleted by itself.
    for batch in part.delete_each(others) {
        match ignore_missing(socket.commit(batch)) {
            // A set of another version of Coracle has other keys.
            Err(Errno::INVAL) => {}
            other => other.context(doing)?,
        }
    }
    Ok(())
}

fn table_exists(family: u8) -> bool {
    send(&Batch::request(family, Operation::GetTable, &table_name())).is_ok()
}

/// Deletes a table with its content. A missing table is not an error.
fn delete_table(socket: &Nfnetlink, family: u8) -> Result<()> {
    let mut batch = Batch::new();
    table(&mut batch, family, Operation::DeleteTable, IfExists::Keep);
    ignore_missing(socket.commit(batch)).context(|| "cannot delete the firewall table 'coracle'")
}

fn unsupported(error: Error) -> Error {
    error.with_hint(
        "the kernel needs nftables with NAT for the inet family (CONFIG_NF_TABLES_INET, CONFIG_NFT_MASQ)",
    )
}
