//! The history of a session: one line of JSON per command. Called by `run`, which appends, and by `show` and
//! `end`.

use crate::error::{Context, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use serde::{Deserialize, Serialize};
use std::io::Write;

/// The largest size of a history, bytes: later commands are not recorded.
const LIMIT: u64 = 8 << 20;

/// A command that has ended. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Entry {
    /// The program and its arguments; empty for a login shell.
    pub(crate) argv: Vec<String>,
    /// Its user.
    pub(crate) user: String,
    /// The time of its start, microseconds since the epoch.
    pub(crate) start: u64,
    /// Its duration.
    pub(crate) seconds: f64,
    /// Its exit status.
    pub(crate) status: u8,
    /// The time of all processors, microseconds. `None` without a cgroup.
    pub(crate) cpu_usec: Option<u64>,
    /// The largest memory of its processes, bytes. `None` if the kernel does not count it.
    pub(crate) memory_peak: Option<u64>,
    /// The number of processes that the out-of-memory killer has killed.
    pub(crate) oom_kills: u64,
    /// The number of processes that it has left, and that were killed.
    pub(crate) killed: usize,
}

/// Appends a command to the history of a session.
///
/// # Errors
/// The file that cannot be written.
pub(super) fn append(paths: &Paths, session: &Name, entry: &Entry) -> Result<()> {
    let path = paths.history(session);
    let doing = || format!("cannot write the history '{}'", path.display());
    let mut line = serde_json::to_vec(entry).map_err(std::io::Error::other).context(doing)?;
    line.push(b'\n');
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).context(doing)?;
    if file.metadata().context(doing)?.len() > LIMIT {
        return Ok(());
    }
    // One write: the lines of commands side by side do not mix.
    file.write_all(&line).context(doing)
}

/// Returns the commands of a session that have ended.
pub(crate) fn read(paths: &Paths, session: &Name) -> Vec<Entry> {
    let text = std::fs::read_to_string(paths.history(session)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_they_were_written() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let session = Name::new("trixie-abcdef").unwrap();
        std::fs::create_dir_all(paths.machine(&session)).unwrap();
        let entry = Entry {
            argv: vec!["sh".into(), "a\nb".into()],
            user: "ann".into(),
            start: 7,
            seconds: 0.25,
            status: 3,
            cpu_usec: Some(9),
            memory_peak: None,
            oom_kills: 0,
            killed: 1,
        };
        for _ in 0..2 {
            append(&paths, &session, &entry).unwrap();
        }
        assert_eq!(read(&paths, &session), [entry.clone(), entry]);
        assert!(read(&paths, &Name::new("other").unwrap()).is_empty());
    }
}
