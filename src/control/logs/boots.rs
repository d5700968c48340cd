//! The boots of a machine in the host's journal.

use super::{LogQuery, journals, known};
use crate::control::{defined, when};
use crate::error::{Context, Error, Result};
use crate::host::systemd::journal::{self, Journal, Query};
use crate::machine::name::Name;
use crate::paths::Paths;
use std::io::Write;
use std::ops::ControlFlow;

/// Writes a line for each boot of a machine: its number for `--boot`, its id, and the times of its first and
/// last entry.
///
/// # Errors
/// A machine that does not exist, no journalctl, or `out` that cannot be written.
pub(crate) fn list_boots(paths: &Paths, query: &LogQuery<'_>, out: &mut dyn Write) -> Result<()> {
    let journals = journals(paths, query.name, None)?;
    let boots = boots(&journals[0])?;
    if boots.is_empty() {
        return known(paths, query.name, defined(paths, query.name));
    }
    for (at, boot) in boots.iter().enumerate() {
        let number = at as isize + 1 - boots.len() as isize;
        writeln!(out, "{number:>3} {} {} {}", boot.id, when(boot.first), when(boot.last))
            .context(|| "cannot write the boots".to_owned())?;
    }
    Ok(())
}

/// A boot of a machine in the host's journal.
struct Boot {
    id: String,
    /// The times of its first and last entry, microseconds since the epoch.
    first: u64,
    last: u64,
}

/// Returns the boots of a machine, the first one first.
fn boots(host: &Journal) -> Result<Vec<Boot>> {
    let mut boots: Vec<Boot> = Vec::new();
    journal::read(&[(host, Query::default())], &mut |_, entry| {
        let time = entry.time;
        match entry.boot.map(|id| (boots.iter().position(|boot| boot.id == id), id)) {
            Some((Some(at), _)) => boots[at].last = time,
            Some((None, id)) => boots.push(Boot { id, first: time, last: time }),
            None => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(boots)
}

/// Returns the id of a boot that the user names by number or id.
pub(super) fn find_boot(host: &Journal, name: &Name, wanted: &str) -> Result<String> {
    let wanted_id = wanted.replace('-', "").to_ascii_lowercase();
    if wanted_id.len() == 32 && wanted_id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(wanted_id);
    }
    let boots: Vec<String> = boots(host)?.into_iter().map(|boot| boot.id).collect();
    nth_boot(&boots, wanted).cloned().ok_or_else(|| {
        Error::new(format!("boot '{wanted}' of machine '{name}' is not in the journal")).with_hint(format!(
            "the journal has {} boots; give 0 (the last), -1, -2, …, or a boot id",
            boots.len()
        ))
    })
}

/// Returns the boot with a number: counted from 1 from the first, from 0 backwards from the last.
fn nth_boot<'a>(boots: &'a [String], wanted: &str) -> Option<&'a String> {
    let number: isize = wanted.parse().ok()?;
    let count = isize::try_from(boots.len()).ok()?;
    let at = if number > 0 { number - 1 } else { count.checked_add(number)?.checked_sub(1)? };
    boots.get(usize::try_from(at).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_are_counted_from_both_ends() {
        let boots = ["a", "b", "c"].map(str::to_owned);
        for (wanted, expected) in [("0", "c"), ("-0", "c"), ("-2", "a"), ("1", "a"), ("3", "c")] {
            assert_eq!(nth_boot(&boots, wanted).map(String::as_str), Some(expected), "{wanted}");
        }
        for wanted in ["-3", "4", "x", "", "-9223372036854775808"] {
            assert_eq!(nth_boot(&boots, wanted), None, "{wanted}");
        }
        assert_eq!(nth_boot(&[], "0"), None);
    }
}
