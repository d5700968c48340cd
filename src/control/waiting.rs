//! What a machine that is stopping waits for: units of the guest that still have processes, or where
//! its init has no cgroups of its own, these processes. Read off the cgroups: it needs no bus and no
//! init that answers. Called by `start` for progress and by `status`.

use super::stats::{Process, processes};
use crate::host::cgroup;
use crate::host::journal::printable;
use crate::host::state::{Phase, Record};
use std::path::Path;

/// How many are named.
const NAMED: usize = 4;

/// What a machine still waits for, in words, where it is stopping and there is anything.
pub fn left(record: &Record) -> Option<String> {
    if record.phase != Phase::Stopping || !record.is_alive() {
        return None;
    }
    let mut all = Vec::new();
    units(&record.cgroup.as_ref()?.join("payload"), &mut all);
    if all.is_empty() {
        let others = processes(record).into_iter().filter(|process| Some(process.pid) != record.leader);
        all.extend(others.map(|process| name(&process)));
    }
    all.sort();
    let more = all.len().saturating_sub(NAMED);
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match (all.len(), more) {
        (0, _) => None,
        (_, 0) => Some(format!("waits for {named}")),
        (_, more) => Some(format!("waits for {named} and {more} more")),
    }
}

fn name(process: &Process) -> String {
    let program = process.command.split(' ').next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    format!("{program} ({})", process.pid)
}

/// The units whose cgroups have processes, by the names systemd gives cgroups. A guest may name its
/// own as it likes: they are bounded by what is named of them, and shown printable.
fn units(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let is_unit = [".service", ".scope", ".mount", ".socket", ".swap"]
            .iter()
            .any(|kind| name.to_string_lossy().ends_with(kind));
        if !is_unit {
            units(&path, found);
        } else if name != "init.scope" && cgroup::is_populated(&path) {
            found.push(printable(name.as_encoded_bytes()));
        }
    }
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
        let mut found = Vec::new();
        units(root.path(), &mut found);
        found.sort();
        assert_eq!(found, ["session-1.scope", "slow.service"]);
    }
}
