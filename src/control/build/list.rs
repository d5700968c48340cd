//! `coracle build list` and `show`.

use super::history::{self, Entry};
use super::{all, session};
use crate::control::list::span;
use crate::control::{now, when};
use crate::error::Result;
use crate::host::systemd::journal::printable_line;
use crate::machine::name::Name;
use crate::machine::size;
use crate::paths::Paths;
use crate::state::build::BuildRecord;
use crate::state::record::Record;
use serde::Serialize;
use std::path::PathBuf;

/// A session. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SessionRow {
    /// Its name.
    pub(crate) session: Name,
    /// The base, as its caller has named it.
    pub(crate) base: String,
    /// `running`, or `dead` after its supervisor was killed.
    pub(crate) state: &'static str,
    /// The user of its commands.
    pub(crate) user: String,
    /// `none`, `host` or `nat`.
    pub(crate) network: &'static str,
    /// The time of its start, microseconds since the epoch.
    pub(crate) started: u64,
    /// Its root on the host: the base.
    pub(crate) root: PathBuf,
    /// The directories of the host with its results.
    pub(crate) results: Vec<PathBuf>,
}

/// The columns of the table.
pub(crate) const COLUMNS: [&str; 6] = ["SESSION", "BASE", "STATE", "USER", "NETWORK", "AGE"];

impl SessionRow {
    fn of(record: Record, build: BuildRecord) -> Self {
        let is_host = record.unconfined.iter().any(|word| word == "network");
        let network = match (&record.host_interface, is_host) {
            (_, true) => "host",
            (Some(_), false) => "nat",
            (None, false) => "none",
        };
        Self {
            state: if record.is_alive() { "running" } else { "dead" },
            session: record.name,
            base: build.base,
            user: build.user,
            network,
            started: record.started,
            root: record.root,
            results: build.results,
        }
    }

    /// Returns the cells of [`COLUMNS`].
    pub(crate) fn cells(&self) -> Vec<String> {
        let age = span(now().saturating_sub(self.started) / 1_000_000);
        let words = [self.session.as_str(), &self.base, self.state, &self.user, self.network, &age];
        words.map(str::to_owned).into()
    }
}

/// Returns all sessions.
pub(crate) fn list(paths: &Paths) -> Vec<SessionRow> {
    all(paths).into_iter().map(|(record, build)| SessionRow::of(record, build)).collect()
}

/// A session with its commands. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SessionReport {
    /// The session.
    #[serde(flatten)]
    pub(crate) row: SessionRow,
    /// The commands that have ended.
    pub(crate) commands: Vec<Entry>,
}

impl SessionReport {
    /// Returns the report as text.
    pub(crate) fn text(&self) -> String {
        let row = &self.row;
        let mut lines = vec![
            format!("{}: {}", row.session, row.state),
            format!("  base: {} ({})", row.base, row.root.display()),
            format!("  user: {}", row.user),
            format!("  network: {}", row.network),
            format!("  started: {}", when(row.started)),
        ];
        lines.extend(row.results.iter().map(|directory| format!("  results: {}", directory.display())));
        lines.extend(self.commands.iter().map(line));
        lines.join("\n") + "\n"
    }
}

/// Returns a command of the history as a line.
fn line(entry: &Entry) -> String {
    let mut text = format!("  {} after {:.1} s", entry.status, entry.seconds);
    if let Some(usec) = entry.cpu_usec {
        text.push_str(&format!(", CPU {}.{} s", usec / 1_000_000, usec % 1_000_000 / 100_000));
    }
    if let Some(peak) = entry.memory_peak {
        text.push_str(&format!(", {}", size::rounded(peak)));
    }
    let command = if entry.argv.is_empty() {
        "(login shell)".to_owned()
    } else {
        printable_line(entry.argv.join(" ").as_bytes())
    };
    format!("{text}: {}: {command}", entry.user)
}

/// Returns a session and its history.
///
/// # Errors
/// A name without a session.
pub(crate) fn show(paths: &Paths, name: &Name) -> Result<SessionReport> {
    let (record, build) = session(paths, name)?;
    Ok(SessionReport { row: SessionRow::of(record, build), commands: history::read(paths, name) })
}
