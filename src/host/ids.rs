//! Ranges of user ids for machines: picked once by name, recorded under `/var/lib/coracle/ids`,
//! and while in use locked where systemd-nspawn(1) locks its own.

use super::lock::{self, Lock};
use super::netlink::plan::siphash;
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::machine::users::RANGE_SIZE;
use crate::paths::Paths;
use std::io::Write;
use std::path::PathBuf;

/// The first and the last base, those of systemd's container ranges (`UIDS.md`, "UID ranges").
const FIRST: u32 = 524_288;
const LAST: u32 = 1_878_982_656;
/// Key of the hash that gives a name its first choice. A change changes no recorded range.
const KEY: u128 = 0x5e1d_c0a4_77b2_4c39_9f60_18ea_d2c3_b645;

/// Whether a range is kept for its machine after it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Recorded: the machine has the same range for ever.
    Recorded,
    /// In use only.
    WhileRunning,
}

/// The first id of a machine's range: the recorded one, or the next free one from its name's hash
/// on. It is to be locked at [`lock_file`].
///
/// # Errors
/// A recorded range that another program uses, or none that is free.
pub fn choose(paths: &Paths, name: &Name, keep: Keep) -> Result<u32> {
    let slots = (LAST - FIRST) / RANGE_SIZE + 1;
    let first = u32::try_from(siphash(KEY, &[name.as_str().as_bytes()]) % u64::from(slots)).unwrap_or(0);
    let choice = |step| FIRST + (first + step) % slots * RANGE_SIZE;
    if let Some(base) = recorded(paths, name, choice(0)) {
        return if lock::is_taken(&lock_file(paths, base)) { Err(in_use(base)) } else { Ok(base) };
    }
    let taken = taken(paths);
    for base in (0..slots).map(choice) {
        if taken.iter().any(|(start, end)| u64::from(base) < *end && u64::from(base + RANGE_SIZE) > *start)
            || lock::is_taken(&lock_file(paths, base))
        {
            continue;
        }
        if keep == Keep::WhileRunning || record(paths, name, base)? {
            return Ok(base);
        }
    }
    Err(Error::new(format!("no range of {RANGE_SIZE} user ids is free for machine '{name}'")).hint(format!(
        "free ranges in /etc/subuid and /etc/subgid, or records of machines that are gone in '{}'",
        directory(paths).display()
    )))
}

/// The file that is locked while a range is in use, systemd-nspawn(1)'s.
pub fn lock_file(paths: &Paths, base: u32) -> PathBuf {
    paths.join("/run/systemd/nspawn-uid").join(base.to_string())
}

/// Locks a range.
///
/// # Errors
/// One that is in use.
pub fn lock(paths: &Paths, base: u32) -> Result<Lock> {
    lock::take(&lock_file(paths, base))?.ok_or_else(|| in_use(base))
}

fn in_use(base: u32) -> Error {
    Error::new(format!("the range of user ids from {base} on is in use"))
        .hint("another container runs with it: stop that one, or give the machine another range")
}

/// The file that records the range from `base` on.
pub fn record_file(paths: &Paths, base: u32) -> PathBuf {
    directory(paths).join(base.to_string())
}

fn directory(paths: &Paths) -> PathBuf {
    paths.kept().join("ids")
}

/// The base recorded for a name, looked for at its first choice first. The file is named for the
/// base, so that the file system itself keeps two machines from one range.
fn recorded(paths: &Paths, name: &Name, first: u32) -> Option<u32> {
    if owner(paths, first).is_some_and(|owner| owner == name.as_str()) {
        return Some(first);
    }
    records(paths).find(|(_, owner)| owner == name.as_str()).map(|(base, _)| base)
}

/// Every recorded range: its base and the machine it is kept for.
pub fn records(paths: &Paths) -> impl Iterator<Item = (u32, String)> {
    bases(paths).filter_map(|base| Some((base, owner(paths, base)?)))
}

/// The base of every recorded range.
fn bases(paths: &Paths) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir(directory(paths)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The machine that the range from `base` on is kept for.
fn owner(paths: &Paths, base: u32) -> Option<String> {
    Some(std::fs::read_to_string(record_file(paths, base)).ok()?.trim().to_owned())
}

/// Records a range; false where another machine was quicker.
fn record(paths: &Paths, name: &Name, base: u32) -> Result<bool> {
    let file = record_file(paths, base);
    let doing = || format!("cannot record the id range in '{}'", file.display());
    std::fs::create_dir_all(directory(paths)).context(doing)?;
    // Written whole before it has its name: a full disk leaves no record of nobody.
    let mut draft = file.clone();
    draft.set_file_name(format!(".{base}.{name}"));
    let written = std::fs::File::create(&draft)
        .and_then(|mut draft| draft.write_all(format!("{name}\n").as_bytes()))
        .and_then(|()| match std::fs::hard_link(&draft, &file) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            result => result.map(|()| true),
        });
    let _ = std::fs::remove_file(&draft);
    written.context(doing)
}

/// Ranges that are somebody's: recorded ones, those of subuid(5) and subgid(5), and the ids of
/// the host's users and groups. Start and end, exclusive.
fn taken(paths: &Paths) -> Vec<(u64, u64)> {
    let recorded = bases(paths).map(|base| (u64::from(base), u64::from(base) + u64::from(RANGE_SIZE)));
    recorded.chain(delegated(paths)).collect()
}

/// Ranges of subuid(5) and subgid(5), and the ids of the host's users and groups. Start and end,
/// exclusive.
pub fn delegated(paths: &Paths) -> Vec<(u64, u64)> {
    let mut taken = Vec::new();
    for (file, start, count) in [
        ("/etc/subuid", 1, Some(2)),
        ("/etc/subgid", 1, Some(2)),
        ("/etc/passwd", 2, None),
        ("/etc/group", 2, None),
    ] {
        let text = std::fs::read_to_string(paths.join(file)).unwrap_or_default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split(':').collect();
            let number = |field: usize| fields.get(field).and_then(|text| text.trim().parse::<u64>().ok());
            if let Some(start) = number(start) {
                let count = count.map_or(Some(1), number).unwrap_or(1);
                taken.push((start, start.saturating_add(count)));
            }
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn a_machine_keeps_its_range_and_shares_it_with_none() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let base = choose(&paths, &name("web"), Keep::Recorded).unwrap();
        let held = lock(&paths, base).unwrap();
        for error in
            [choose(&paths, &name("web"), Keep::Recorded).unwrap_err(), lock(&paths, base).unwrap_err()]
        {
            assert!(error.to_string().contains("in use"), "{error}");
        }
        drop(held);
        assert_eq!(choose(&paths, &name("web"), Keep::Recorded).unwrap(), base);
        for other in 0..50 {
            let other = choose(&paths, &name(&format!("m{other}")), Keep::Recorded).unwrap();
            assert_ne!(other, base);
            assert_eq!((other - FIRST) % RANGE_SIZE, 0);
        }
    }

    #[test]
    fn delegated_ranges_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/subuid"), "all:100000:4000000000\n").unwrap();
        let error = choose(&paths, &name("web"), Keep::Recorded).unwrap_err();
        assert!(error.cure().unwrap().contains("/etc/subuid"));
        assert_eq!(records(&paths).count(), 0);
    }
}
