//! `list`: the table of machines, and what of it a narrow terminal does without. Called by `main`.

use super::output::{self, Align, Legend};
use super::verbs::List;
use crate::config;
use crate::control::list::{self, Row};
use crate::error::Result;
use crate::paths::Paths;

/// What goes first where there is no room, from what is wanted least; `status` and `--json` have it all.
const SPARED: [(&str, Sparing); 11] = [
    ("MEMORY", Sparing::Empty),
    ("UNCONFINED", Sparing::Empty),
    ("TASKS", Sparing::Empty),
    ("INIT", Sparing::Empty),
    ("LEADER", Sparing::Empty),
    ("ADDRESSES", Sparing::Empty),
    ("INIT", Sparing::Any),
    ("TASKS", Sparing::Any),
    ("LEADER", Sparing::Any),
    ("UNCONFINED", Sparing::Any),
    ("ADDRESSES", Sparing::Any),
];

/// When a column is spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sparing {
    /// Where no machine has anything in it.
    Empty,
    /// In any case.
    Any,
}

/// `list`.
///
/// # Errors
/// Standard output cannot be written.
pub fn list(paths: &Paths, wanted: &List) -> Result<()> {
    let others = if wanted.all { config::names(paths)? } else { Default::default() };
    let rows = list::rows(paths, others);
    if wanted.json {
        return output::json(&rows);
    }
    let legend = if wanted.no_legend { Legend::Hidden } else { Legend::Shown };
    output::text(&fitted(&rows, legend, output::columns()))
}

/// The table in a terminal of so many columns: first with one address of each machine, then without
/// the columns that tell nothing, then without those that are [`SPARED`].
fn fitted(rows: &[Row], legend: Legend, columns: Option<usize>) -> String {
    let mut names = list::COLUMNS.to_vec();
    let mut cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    let fits = |table: &String| {
        columns.is_none_or(|columns| table.lines().all(|line| line.chars().count() <= columns))
    };
    let mut shown = table(&names, &cells, legend);
    if let Some(at) = names.iter().position(|name| *name == "ADDRESSES")
        && !fits(&shown)
    {
        for (row, cells) in rows.iter().zip(&mut cells) {
            if let Some(cell) = cells.get_mut(at) {
                *cell = row.main_address();
            }
        }
        shown = table(&names, &cells, legend);
    }
    let says_nothing =
        |cells: &[Vec<String>], at: usize| cells.iter().all(|row| row.get(at).is_none_or(|cell| cell == "-"));
    for (spared, when) in SPARED {
        let Some(at) = names.iter().position(|name| *name == spared) else { continue };
        if fits(&shown) {
            break;
        }
        if when == Sparing::Any || says_nothing(&cells, at) {
            names.remove(at);
            cells.iter_mut().for_each(|row| drop(row.remove(at)));
            shown = table(&names, &cells, legend);
        }
    }
    shown
}

fn table(names: &[&str], cells: &[Vec<String>], legend: Legend) -> String {
    let right = ["LEADER", "MEMORY", "TASKS", "UPTIME"];
    let align = |name: &str| if right.contains(&name) { Align::Right } else { Align::Left };
    let columns: Vec<_> = names.iter().map(|name| (*name, align(name))).collect();
    output::table(&columns, cells, legend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, unconfined: &[&str]) -> Row {
        let addresses = ["fd00:1234:5678:9abc:def0:1234:5678:9abc", "192.168.245.13", "fe80::1"];
        Row {
            name: name.into(),
            state: "running".into(),
            init: Some("systemd".into()),
            leader: Some(123_456),
            addresses: addresses.map(|address| address.parse().unwrap()).to_vec(),
            memory: Some(123 << 20),
            tasks: Some(17),
            started: None,
            uptime: Some(90_061),
            unit: None,
            root: None,
            unconfined: unconfined.iter().map(|word| (*word).to_owned()).collect(),
            outdated: false,
        }
    }

    #[test]
    fn a_wide_terminal_and_a_file_have_it_all() {
        for columns in [None, Some(200)] {
            let table = fitted(&[row("web", &[])], Legend::Shown, columns);
            assert!(
                table.contains("fd00:1234:5678:9abc:def0:1234:5678:9abc 192.168.245.13 fe80::1"),
                "{table}"
            );
            assert!(table.contains("UNCONFINED"), "{table}");
        }
    }

    #[test]
    fn a_narrow_terminal_has_what_matters() {
        for columns in 30..200 {
            let table =
                fitted(&[row("web", &[]), row("database", &["network"])], Legend::Shown, Some(columns));
            assert!(table.lines().all(|line| line.len() <= columns.max(40)), "{columns}\n{table}");
            assert!(table.contains("UPTIME") && table.contains("MEMORY"), "{columns}\n{table}");
        }
        let table = fitted(&[row("web", &[])], Legend::Shown, Some(80));
        assert!(table.contains("192.168.245.13 +2") && table.contains("LEADER"), "{table}");
        assert!(!table.contains("UNCONFINED"), "{table}");
        let table = fitted(&[row("web", &["network"])], Legend::Shown, Some(80));
        assert!(table.contains("network") && table.contains("192.168.245.13 +2"), "{table}");
    }
}
