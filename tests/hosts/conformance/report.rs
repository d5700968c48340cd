//! The result of a run of the conformance table. Called by the test.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Write as _, stderr};

use super::row::Row;

/// The counts of a subject.
#[derive(Debug, Default)]
struct Counts {
    rows: u32,
    real: u32,
    ours: u32,
    differs: u32,
    unbuilt: u32,
    skipped: u32,
}

/// The counts by subject, the reasons, and the wrong rows.
#[derive(Debug)]
pub struct Report {
    version: u32,
    subjects: BTreeMap<String, Counts>,
    reasons: Vec<String>,
    wrong: Vec<String>,
}

impl Report {
    /// Creates the report of a host with this version of systemd.
    pub fn new(version: u32) -> Self {
        Self { version, subjects: BTreeMap::new(), reasons: Vec::new(), wrong: Vec::new() }
    }

    fn counts(&mut self, row: &Row) -> &mut Counts {
        self.subjects.entry(row.subject.clone()).or_default()
    }

    /// Counts a row.
    pub fn add(&mut self, row: &Row) {
        self.counts(row).rows += 1;
    }

    /// Counts a row that this host cannot run.
    pub fn skip(&mut self, row: &Row, needs: &str) {
        let counts = self.counts(row);
        counts.rows += 1;
        counts.skipped += 1;
        self.reasons.push(format!("skipped: {row}: the host fails '{}'", needs.trim()));
    }

    /// Adds the result of systemd-nspawn: its deviation.
    pub fn real(&mut self, row: &Row, deviation: Option<String>) {
        match deviation {
            None => self.counts(row).real += 1,
            Some(text) => self.wrong.push(text),
        }
    }

    /// Adds the result of coracle: its deviation, which must agree with the row's `differs` and `unbuilt`.
    pub fn ours(&mut self, row: &Row, deviation: Option<String>) {
        let (kind, reason) = match (&row.differs, &row.unbuilt) {
            (Some(reason), _) => ("differs", reason),
            (None, Some(reason)) => ("unbuilt", reason),
            (None, None) => {
                match deviation {
                    None => self.counts(row).ours += 1,
                    Some(text) => self.wrong.push(text),
                }
                return;
            }
        };
        if deviation.is_none() {
            self.wrong.push(format!("ours: {row}: conforms, but the row has the key '{kind}'"));
            return;
        }
        self.reasons.push(format!("{kind}: {row}: {reason}"));
        let counts = self.counts(row);
        match kind {
            "differs" => counts.differs += 1,
            _ => counts.unbuilt += 1,
        }
    }

    /// Writes the summary to standard error.
    pub fn print(&self) {
        let mut text = format!(
            "systemd-nspawn {}\n{:<14}{:>6}{:>6}{:>6}{:>9}{:>9}{:>9}\n",
            self.version, "subject", "rows", "real", "ours", "differs", "unbuilt", "skipped"
        );
        let mut sum = Counts::default();
        let mut line = |subject: &str, counts: &Counts| {
            let Counts { rows, real, ours, differs, unbuilt, skipped } = counts;
            writeln!(text, "{subject:<14}{rows:>6}{real:>6}{ours:>6}{differs:>9}{unbuilt:>9}{skipped:>9}")
                .expect("write to a string");
        };
        for (subject, counts) in &self.subjects {
            line(subject, counts);
            sum.add(counts);
        }
        line("total", &sum);
        // Past the capture of the test harness.
        let _ = writeln!(stderr(), "{text}{}", self.reasons.join("\n"));
    }

    /// Returns the texts about wrong rows.
    pub fn into_wrong(self) -> Vec<String> {
        self.wrong
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.real += other.real;
        self.ours += other.ours;
        self.differs += other.differs;
        self.unbuilt += other.unbuilt;
        self.skipped += other.skipped;
    }
}
