//! The possible leftovers of a machine on a host: mounts, links, addresses, routes, network namespaces,
//! cgroups, the nft ruleset, loop devices, registrations, scopes, state files, processes. Called by tests.
//!
//! Take a `Snapshot` before and call `assert_same` after: it waits some seconds for the host to settle and
//! then lists all differences. Recorded id ranges in `/var/lib/coracle` may stay.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use super::host::Host;
use super::job::Output;

const SETTLE: Duration = Duration::from_secs(8);

/// The lines printed by `leaks.sh`, with the number of occurrences of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    lines: BTreeMap<String, i64>,
}

/// A system on which snapshots are taken.
pub trait Inspect {
    /// Runs a shell script as root, named `leaks.sh` in messages.
    fn run_script(&self, script: &str) -> Output;
}

impl Inspect for Host {
    fn run_script(&self, script: &str) -> Output {
        self.exec(&["sh", "-c", script, "leaks.sh"])
    }
}

impl Snapshot {
    /// Returns a snapshot of the current state.
    pub fn take(host: &impl Inspect) -> Self {
        let text = host.run_script(include_str!("leaks.sh")).success("leaks.sh").stdout;
        let mut lines = BTreeMap::new();
        for line in text.lines() {
            *lines.entry(line.to_owned()).or_default() += 1;
        }
        Self { lines }
    }

    /// Returns every line that is more frequent (`+`) or less frequent (`-`) in `after`, sorted by kind.
    pub fn difference(&self, after: &Self) -> Vec<String> {
        let keys = self.lines.keys().chain(after.lines.keys().filter(|line| !self.lines.contains_key(*line)));
        let mut difference = Vec::new();
        for line in keys {
            let count = |snapshot: &Self| snapshot.lines.get(line).copied().unwrap_or_default();
            let sign = match count(after) - count(self) {
                0 => continue,
                1.. => '+',
                _ => '-',
            };
            difference.push(format!("{sign} {line}"));
        }
        difference.sort_by(|a, b| a[2..].cmp(&b[2..]));
        difference
    }

    /// Waits until the state is equal to this snapshot; panics with all differences at the time limit.
    #[track_caller]
    pub fn assert_same(&self, host: &impl Inspect) {
        let end = Instant::now() + SETTLE;
        loop {
            let difference = self.difference(&Self::take(host));
            if difference.is_empty() {
                return;
            }
            if Instant::now() >= end {
                panic!("left over on the host:\n{}", difference.join("\n"));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (line, count) in &self.lines {
            writeln!(f, "{line} ({count})")?;
        }
        Ok(())
    }
}
