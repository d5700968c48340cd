//! The table of limits: a row has the form `SUBJECT/MEASURE LIMIT  # REASON`; empty lines and lines with a
//! comment alone separate the subjects. Called by the tests.

use crate::TABLE;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The measured values, by row.
pub type Measures = BTreeMap<String, u64>;

/// The table: each line, and its row if it has one.
pub struct Limits {
    lines: Vec<(String, Option<(String, u64)>)>,
}

/// The result of a comparison, as messages.
#[derive(Debug)]
pub struct Comparison {
    /// Measures above their limit, measures without a limit, limits without a measure.
    pub exceeded: Vec<String>,
    /// Limits far above their measure.
    pub tighter: Vec<String>,
}

impl Comparison {
    /// Returns the message of a failure, which includes the way to update limits.
    pub fn message(&self) -> String {
        let lines = self.exceeded.join("\n");
        format!(
            "{lines}\nhint: find the change that costs it; if it is justified, run \
             `BLESS=1 cargo test --test budget -- --include-ignored` with CORACLE_BINARY and write the reason \
             in {TABLE}"
        )
    }
}

impl Limits {
    /// Parses a table. Panics on a line of another form, and on a second row of the same name.
    pub fn parse(table: &str) -> Self {
        let mut seen = Vec::new();
        let mut row = |line: &str| {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            match words[..] {
                [] => None,
                [row, limit] => {
                    let limit = limit.parse().unwrap_or_else(|_| panic!("'{limit}' is not a number: {line}"));
                    assert!(!seen.contains(&row.to_owned()), "two rows '{row}'");
                    seen.push(row.to_owned());
                    Some((row.to_owned(), limit))
                }
                _ => panic!("not of the form 'ROW LIMIT  # REASON': {line}"),
            }
        };
        Self { lines: table.lines().map(|line| (line.to_owned(), row(line))).collect() }
    }

    fn rows(&self) -> impl Iterator<Item = &(String, u64)> {
        self.lines.iter().filter_map(|(_, row)| row.as_ref())
    }

    /// Compares measures with their limits.
    pub fn compare(&self, measured: &Measures) -> Comparison {
        let limits: BTreeMap<&String, u64> = self.rows().map(|(row, limit)| (row, *limit)).collect();
        let mut found = Comparison { exceeded: Vec::new(), tighter: Vec::new() };
        for (row, value) in measured {
            match limits.get(row) {
                None if *value == 0 => {}
                None => found.exceeded.push(format!("'{row}' is {value} and has no limit in {TABLE}")),
                Some(limit) if value > limit => {
                    found.exceeded.push(format!("'{row}' is {value}, above its limit {limit}"));
                }
                Some(limit) => {
                    let rest = limit.saturating_sub(value + margin(row, measured));
                    if rest > 2 && rest * 20 > *limit && !row.ends_with("/waits") {
                        found.tighter.push(format!("'{row}' is {value}: its limit {limit} can be lowered"));
                    }
                }
            }
        }
        let stale = limits.keys().filter(|row| !measured.contains_key(**row));
        found.exceeded.extend(stale.map(|row| format!("'{row}' of {TABLE} is not measured any more")));
        found
    }

    /// Returns the table with the measured values as limits. Comments are kept; rows without a measure are
    /// removed, and new rows are appended to their subject.
    pub fn with(&self, measured: &Measures) -> String {
        let limit = |row: &String, value: &u64| value + margin(row, measured);
        let is_new = |row: &String| self.rows().all(|(known, _)| known != row);
        let new = measured.iter().filter(|(row, value)| **value > 0 && is_new(row));
        let mut new: BTreeMap<&String, u64> = new.map(|(row, value)| (row, limit(row, value))).collect();
        let mut text = String::new();
        for (place, (line, row)) in self.lines.iter().enumerate() {
            let Some((row, old)) = row else {
                text += &format!("{line}\n");
                continue;
            };
            if let Some(value) = measured.get(row) {
                let new = limit(row, value);
                text += &format!("{}\n", line.replacen(&format!(" {old}"), &format!(" {new}"), 1));
            }
            let next = self.lines.get(place + 1).and_then(|(_, row)| row.as_ref());
            if next.is_none_or(|(next, _)| subject(next) != subject(row)) {
                let own: Vec<&String> =
                    new.keys().copied().filter(|one| subject(one) == subject(row)).collect();
                own.iter()
                    .for_each(|row| text += &format!("{row} {}\n", new.remove(*row).unwrap_or_default()));
            }
        }
        new.iter().for_each(|(row, value)| writeln!(text, "{row} {value}").unwrap());
        text
    }
}

fn subject(row: &str) -> &str {
    row.split('/').next().unwrap_or_default()
}

/// Returns the distance of a limit from its measure, for rows that vary by a few even in the least of several
/// runs: faults with the placement of memory and files, switches and waits with the load, and the messages of
/// the bus with the order of events. A peer on a slower or faster processor answers before or after the wait
/// for it, which is up to half of the switches. All other rows are exact.
fn margin(row: &str, measured: &Measures) -> u64 {
    let value = measured.get(row).copied().unwrap_or_default();
    let uses_bus = measured.get(&format!("{}/bus-trips", subject(row))).is_some_and(|trips| *trips > 0);
    match row.split('/').nth(1).unwrap_or_default() {
        _ if value == 0 => 0,
        "switches" if uses_bus => 6 + value / 2,
        "faults" => 3 + value / 10,
        "switches" => 3,
        "waits" => 3 + value / 3,
        "calls" | "calls-network" if uses_bus => 5,
        "calls-files" | "calls-memory" if uses_bus => 2,
        _ => 0,
    }
}
