//! The logs of several machines in one order. Called by `cli`.

use super::{LogQuery, Order, defined, filter, journals, known, last, queries, read, write};
use crate::error::{Error, Result};
use crate::host::systemd::journal::JournalEntry;
use crate::machine::name::Name;
use crate::paths::Paths;
use std::io::Write;
use std::ops::ControlFlow;

/// Writes the logs of machines in the order of time, one line per entry, with the machine before the program. The number
/// of lines is that of all machines together.
///
/// # Errors
/// A query that follows new entries or selects a boot, or as of [`super::show`].
pub(crate) fn show_several(
    paths: &Paths,
    names: &[Name],
    query: &LogQuery<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    if query.follow || query.boot.is_some() {
        return Err(Error::usage("--follow and --boot require a single machine")
            .with_hint("run 'coracle logs' once for each machine"));
    }
    let mut entries = Vec::new();
    for name in names {
        entries.extend(of_machine(paths, &LogQuery { name, ..*query })?);
    }
    // Stable: entries of a machine stay in their order.
    entries.sort_by_key(|entry: &JournalEntry| entry.time);
    if query.order == Order::NewestFirst {
        entries.reverse();
    }
    let lines = query.lines.map_or(entries.len(), |lines| lines as usize);
    match query.order {
        Order::NewestFirst => entries.truncate(lines),
        Order::OldestFirst => drop(entries.drain(..entries.len().saturating_sub(lines))),
    }
    for entry in &entries {
        if write(out, entry, query.format)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Returns the entries of a machine, with its name before their sources.
fn of_machine(paths: &Paths, query: &LogQuery<'_>) -> Result<Vec<JournalEntry>> {
    let definition = defined(paths, query.name);
    let root = definition.as_ref().ok().map(|machine| machine.root.path().to_owned());
    let mut journals = journals(paths, query.name, root.as_deref())?;
    if !query.units.is_empty() {
        journals.retain(super::is_of_guest);
    }
    let mut filter = filter(paths, query);
    let mut entries: Vec<JournalEntry> = match query.lines {
        Some(lines) => last(&journals, query, None, lines, &mut filter)?.entries.into(),
        None => {
            let mut entries = Vec::new();
            let queries = queries(&journals, None, |_| query.query());
            read(&queries, &mut filter, &mut |entry| {
                entries.push(entry);
                Ok(ControlFlow::Continue(()))
            })?;
            entries
        }
    };
    if entries.is_empty() {
        known(paths, query.name, definition)?;
    }
    entries.iter_mut().for_each(|entry| entry.source.insert_str(0, &format!("{} ", query.name)));
    Ok(entries)
}
