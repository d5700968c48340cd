//! Units of the guest that delay a stop, because they still have processes; or these processes, if the init
//! has no cgroups of its own. Read from the cgroups: neither a bus nor an answering init is needed. Called by
//! `start` for progress and by `status`.

use crate::control::stats::{Process, processes};
use crate::host::cgroup;
use crate::host::systemd::journal::printable;
use crate::machine::init::REAL_TIME_SIGNALS;
use crate::state::record::{Phase, Record};
use crate::sys::pseudo_file;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

/// The time for PID 1 to read its signals.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The number of named units or processes.
const NAMED: usize = 4;

/// Describes the units or processes that delay the stop of a machine. `None` if it is not stopping, or none
/// is left.
pub(crate) fn waiting_for(record: &Record) -> Option<String> {
    if record.phase != Phase::Stopping || !record.is_alive() {
        return None;
    }
    if record.leader.is_some_and(has_unread_request) {
        return Some("PID 1, which has not read the request".to_owned());
    }
    let mut all = populated_units(&record.payload_cgroup()?);
    if all.is_empty() {
        let others = processes(record).into_iter().filter(|process| Some(process.pid) != record.leader);
        all.extend(others.map(|process| name(&process)));
    }
    all.sort();
    let more = all.len().saturating_sub(NAMED);
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match (all.len(), more) {
        (0, _) => None,
        (_, 0) => Some(named),
        (_, more) => Some(format!("{named} and {more} more")),
    }
}

/// Returns whether signals that PID 1 has to read are pending: a request to systemd, or SIGCHLD.
pub(crate) fn has_unread_signals(leader: u32) -> bool {
    pending_signals(leader).is_some_and(|pending| pending != 0)
}

/// Returns whether a real-time signal is pending for PID 1: the request to systemd.
fn has_unread_request(leader: u32) -> bool {
    // Bit 0 is signal 1.
    pending_signals(leader).is_some_and(|pending| pending >> (REAL_TIME_SIGNALS.start() - 1) != 0)
}

/// Returns the pending signals of a process. A running one has read them a moment later.
fn pending_signals(leader: u32) -> Option<u64> {
    let read = || {
        let status = pseudo_file::read(format!("/proc/{leader}/status")).ok()?;
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(pending.trim(), 16).ok()
    };
    let first = read().filter(|pending| *pending != 0)?;
    std::thread::sleep(LOOK_AGAIN);
    Some(first & read()?)
}

fn name(process: &Process) -> String {
    let program = process.command.split(' ').next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    format!("{program} ({})", process.pid)
}

/// Returns units with processes, by the names that systemd gives cgroups. A guest can create cgroups with any
/// name: the output names at most `NAMED`, as printable text.
pub(crate) fn populated_units(directory: &Path) -> Vec<String> {
    let is_unit = |name: &OsStr| {
        let name = name.to_string_lossy();
        [".service", ".scope", ".mount", ".socket", ".swap"].iter().any(|kind| name.ends_with(kind))
    };
    let names = cgroup::populated(directory, &is_unit).into_iter().filter(|name| name != "init.scope");
    names.map(|name| printable(name.as_encoded_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_with_processes_are_named() {
        let root = tempfile::tempdir().unwrap();
        for (path, populated) in [
            ("init.scope", 1),
            ("system.slice/slow.service", 1),
            ("system.slice/done.service", 0),
            ("user.slice/user-0.slice/session-1.scope", 1),
        ] {
            let directory = root.path().join(path);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("cgroup.events"), format!("populated {populated}\nfrozen 0\n"))
                .unwrap();
        }
        let mut found = populated_units(root.path());
        found.sort();
        assert_eq!(found, ["session-1.scope", "slow.service"]);
    }

    #[test]
    fn units_are_found_deeper_than_a_path() {
        use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
        let root = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = openat(CWD, root.path(), flags, Mode::empty()).unwrap();
        let name = "x".repeat(250);
        for name in (0..30).map(|_| name.as_str()).chain(["deep.service"]) {
            mkdirat(&at, name, Mode::RWXU).unwrap();
            at = openat(&at, name, flags, Mode::empty()).unwrap();
        }
        let file = openat(&at, "cgroup.events", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
        rustix::io::write(file, b"populated 1\n").unwrap();
        assert_eq!(populated_units(root.path()), ["deep.service"]);
    }
}
