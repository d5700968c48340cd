//! `coracle build end`: ends a session and reports what it has used.

use super::history::{self, Entry};
use super::session;
use crate::control::{now, signal};
use crate::error::Result;
use crate::machine::name::Name;
use crate::machine::size;
use crate::paths::Paths;
use crate::sys::pseudo_file;
use serde::Serialize;

/// The resources used by a session. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Summary {
    /// The session.
    pub(crate) session: Name,
    /// The number of commands that have ended.
    pub(crate) commands: usize,
    /// The time since its start, seconds.
    pub(crate) seconds: u64,
    /// The time of all processors, microseconds. `None` without a cgroup.
    pub(crate) cpu_usec: Option<u64>,
    /// The largest memory, bytes. `None` if the kernel does not count it.
    pub(crate) memory_peak: Option<u64>,
    /// The bytes written to disks. `None` if the kernel does not count them.
    pub(crate) written: Option<u64>,
}

impl Summary {
    /// Returns the summary as one line.
    pub(crate) fn text(&self) -> String {
        let commands = if self.commands == 1 { "command" } else { "commands" };
        let mut text = format!("{}: {} {commands}, {} s", self.session, self.commands, self.seconds);
        if let Some(usec) = self.cpu_usec {
            text.push_str(&format!(", CPU {} s", usec.div_ceil(1_000_000)));
        }
        if let Some(peak) = self.memory_peak {
            text.push_str(&format!(", memory peak {}", size::rounded(peak)));
        }
        if let Some(written) = self.written {
            text.push_str(&format!(", {} written", size::rounded(written)));
        }
        text
    }
}

/// The state of a session before its end.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It was running and has ended; nothing of it is left.
    Stopped(Summary),
    /// Its supervisor was killed before: the caller cleans up after it.
    Dead(Summary),
}

/// Ends a session and waits until nothing of it is left. Its commands are killed.
///
/// # Errors
/// A name without a session, or a supervisor that does not end.
pub(crate) fn end(paths: &Paths, name: &Name) -> Result<Ended> {
    let (record, _) = session(paths, name)?;
    let commands = history::read(paths, name);
    let payload = record.payload_cgroup();
    let read = |file: &str| payload.as_ref().and_then(|payload| pseudo_file::read(payload.join(file)).ok());
    let of_leaves = commands.iter().filter_map(|entry: &Entry| entry.memory_peak).max();
    let peak = read("memory.peak").and_then(|text| text.trim().parse().ok());
    let usage = |text: String| text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
    let summary = Summary {
        session: name.clone(),
        commands: commands.len(),
        seconds: now().saturating_sub(record.started) / 1_000_000,
        cpu_usec: read("cpu.stat").and_then(usage),
        memory_peak: peak.or(of_leaves),
        written: read("io.stat").map(|text| written(&text)),
    };
    if !record.is_alive() {
        return Ok(Ended::Dead(summary));
    }
    let waiting = || log::info!("waiting for the processes of session '{name}' to end");
    signal::stop_and_wait_for_answer(paths, &record, waiting)?;
    Ok(Ended::Stopped(summary))
}

/// Returns the sum of the written bytes of all devices in the file io.stat of a cgroup.
fn written(text: &str) -> u64 {
    let words = text.split_ascii_whitespace();
    words.filter_map(|word| word.strip_prefix("wbytes=")?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IO: &str =
        "8:0 rbytes=7 wbytes=1048576 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=0 wbytes=2097152\n";

    #[test]
    fn a_summary_names_what_is_known() {
        let session = Name::new("trixie-abcdef").unwrap();
        let (commands, seconds, cpu_usec) = (1, 58, Some(40_200_000));
        let summary = Summary { session, commands, seconds, cpu_usec, memory_peak: None, written: None };
        assert_eq!(summary.text(), "trixie-abcdef: 1 command, 58 s, CPU 41 s");
        let (memory_peak, written) = (Some(412 << 20), Some(super::written(IO)));
        let summary = Summary { commands: 2, memory_peak, written, ..summary };
        let text = "trixie-abcdef: 2 commands, 58 s, CPU 41 s, memory peak 412.0M, 3.0M written";
        assert_eq!(summary.text(), text);
    }
}
