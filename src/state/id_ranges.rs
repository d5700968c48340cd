//! Ranges of user ids for machines: chosen once by name, recorded in `/var/lib/coracle/ids`, and locked while
//! in use at the lock files of systemd-nspawn(1).

use crate::error::{Context, Error, Result};
use crate::host::lock;
use crate::host::lock::Lock;
use crate::machine::hash::siphash;
use crate::machine::name::Name;
use crate::machine::users::RANGE_SIZE;
use crate::paths::Paths;
use std::io::Write;
use std::path::PathBuf;

/// The first and the last base of systemd's container ranges (`UIDS.md`, "UID ranges").
const FIRST: u32 = 524_288;
const LAST: u32 = 1_878_982_656;
/// Key of the hash of the preferred range of a name. A change does not affect recorded ranges.
const KEY: u128 = 0x5e1d_c0a4_77b2_4c39_9f60_18ea_d2c3_b645;

/// Whether a range is kept for its machine after it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeRetention {
    /// Recorded: the machine always has the same range.
    Recorded,
    /// Only while the machine runs.
    WhileRunning,
}

/// Returns the first id of a machine's range of `count` ids: the recorded one, or the next free one from its
/// name's hash on. The caller locks the [`lock_file`] of each of its [`bases`].
///
/// # Errors
/// A recorded range is used by another program, or there is no free range.
pub(crate) fn choose(paths: &Paths, name: &Name, keep: RangeRetention, count: u32) -> Result<u32> {
    let slots = (LAST - FIRST) / RANGE_SIZE + 1;
    let first = u32::try_from(siphash(KEY, &[name.as_str().as_bytes()]) % u64::from(slots)).unwrap_or(0);
    let choice = |step| FIRST + (first + step) % slots * RANGE_SIZE;
    let is_own = |base| owner(paths, base).is_some_and(|owner| owner == name.as_str());
    // Most machines get their preferred range: the records of other machines need not be read.
    let own: Vec<u32> = match bases(choice(0), count).all(is_own) {
        true => bases(choice(0), count).collect(),
        false => recorded(paths, name),
    };
    let locked = |base| bases(base, count).find(|base| lock::is_taken(&lock_file(paths, *base)));
    if let Some(base) = own.iter().find(|base| bases(**base, count).all(|part| own.contains(&part))) {
        return locked(*base).map_or(Ok(*base), |part| Err(in_use(part)));
    }
    let (taken, there) = (taken(paths, &own), there());
    let is_free = |base: u32| {
        let (start, end) = (u64::from(base), u64::from(base) + u64::from(count));
        end <= u64::from(LAST) + u64::from(RANGE_SIZE)
            && there.iter().any(|(first, last)| *first <= start && end <= *last)
            && taken.iter().all(|(first, last)| end <= *first || *last <= start)
            && locked(base).is_none()
    };
    // A machine that gets nested containers needs more ids than it had, starting at the same id if possible.
    for base in own.first().copied().into_iter().chain((0..slots).map(choice)).filter(|base| is_free(*base)) {
        if keep == RangeRetention::WhileRunning || record_all(paths, name, base, count, &own)? {
            return Ok(base);
        }
    }
    Err(Error::new(format!("no range of {count} user ids is free for machine '{name}'")).with_hint(format!(
        "free ranges in /etc/subuid and /etc/subgid, or records of machines that are gone in '{}'; inside of a machine \
         there are those of its own range, more with security.nesting = true",
        directory(paths).display()
    )))
}

/// Takes the range of `count` ids from `base` on, because the owners of a machine's tree are in it. The
/// caller locks it as one of [`choose`]. `None` if another machine or user has the range.
///
/// # Errors
/// A record that cannot be written.
pub(crate) fn adopt(
    paths: &Paths,
    name: &Name,
    base: u32,
    keep: RangeRetention,
    count: u32,
) -> Result<Option<u32>> {
    let own = recorded(paths, name);
    let (start, end) = (u64::from(base), u64::from(base) + u64::from(count));
    let refused = |why: &str| {
        log::debug!("the user ids from {base} on, of the owners of the tree, are mapped: {why}");
        Ok(None)
    };
    let part = |other: u32| u64::from(other)..u64::from(other) + u64::from(RANGE_SIZE);
    let others = || all_bases(paths).filter(|other| !own.contains(other));
    if others().any(|other| part(other).start < end && start < part(other).end) {
        return refused("they are recorded for another machine");
    }
    if delegated(paths).iter().any(|(first, last)| *first < end && start < *last) {
        return refused("users of the host or /etc/subuid and /etc/subgid have ids there");
    }
    if !there().iter().any(|(first, last)| *first <= start && end <= *last) {
        return refused("this user namespace does not have them");
    }
    if bases(base, count).any(|base| lock::is_taken(&lock_file(paths, base))) {
        return refused("another container is running with them");
    }
    if keep == RangeRetention::WhileRunning || record_all(paths, name, base, count, &own)? {
        return Ok(Some(base));
    }
    refused("they were recorded for another machine just now")
}

/// Returns the first ids of the parts of a range, each with its own record and lock.
pub(crate) fn bases(base: u32, count: u32) -> impl Iterator<Item = u32> {
    let parts = (0..count).step_by(RANGE_SIZE as usize);
    parts.filter_map(move |part| base.checked_add(part))
}

/// Returns the existing ids: in a user namespace not all. First and last, exclusive.
fn there() -> Vec<(u64, u64)> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let range = |line: &str| {
        let mut words = line.split_whitespace().map(str::parse::<u64>);
        let (first, _, count) = (words.next()?.ok()?, words.next(), words.next()?.ok()?);
        Some((first, first.saturating_add(count)))
    };
    map.lines().filter_map(range).collect()
}

/// Returns the lock file of a range, that of systemd-nspawn(1).
pub(crate) fn lock_file(paths: &Paths, base: u32) -> PathBuf {
    paths.systemd("nspawn-uid").join(base.to_string())
}

/// Locks a range.
///
/// # Errors
/// The range is in use.
pub(crate) fn lock(paths: &Paths, base: u32) -> Result<Lock> {
    lock::take(&lock_file(paths, base))?.ok_or_else(|| in_use(base))
}

fn in_use(base: u32) -> Error {
    Error::new(format!("the range of user ids from {base} on is in use"))
        .with_hint("another container uses it: stop that container, or choose another range for the machine")
}

/// Returns the record file of the range from `base` on.
pub(crate) fn record_file(paths: &Paths, base: u32) -> PathBuf {
    directory(paths).join(base.to_string())
}

fn directory(paths: &Paths) -> PathBuf {
    paths.kept().join("ids")
}

/// Returns the bases recorded for a name, the first one first. Each has a file with the base as its name, so
/// that the file system itself prevents two machines from getting one range.
pub(crate) fn recorded(paths: &Paths, name: &Name) -> Vec<u32> {
    let own = records(paths).filter(|(_, owner)| owner == name.as_str());
    let mut bases: Vec<u32> = own.map(|(base, _)| base).collect();
    bases.sort_unstable();
    bases
}

/// Returns the record files of a name.
///
/// # Errors
/// A record that cannot be read: it may be one of this name.
pub(crate) fn record_files(paths: &Paths, name: &Name) -> Result<Vec<PathBuf>> {
    let directory = directory(paths);
    let reading = || format!("cannot read the records in '{}'", directory.display());
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(reading)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.context(reading)?;
        if entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            let owner = std::fs::read_to_string(entry.path()).context(reading)?;
            found.extend((owner.trim() == name.as_str()).then(|| entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Returns all recorded ranges: the base and the machine's name.
pub(crate) fn records(paths: &Paths) -> impl Iterator<Item = (u32, String)> {
    all_bases(paths).filter_map(|base| Some((base, owner(paths, base)?)))
}

/// Returns the bases of all recorded ranges.
fn all_bases(paths: &Paths) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir(directory(paths)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Returns the machine of the range from `base` on.
fn owner(paths: &Paths, base: u32) -> Option<String> {
    Some(std::fs::read_to_string(record_file(paths, base)).ok()?.trim().to_owned())
}

/// Records a range and deletes other records of the machine. Returns `false` if another machine was faster.
fn record_all(paths: &Paths, name: &Name, base: u32, count: u32, own: &[u32]) -> Result<bool> {
    let mut made = Vec::new();
    for part in bases(base, count).filter(|part| !own.contains(part)) {
        match record(paths, name, part) {
            Ok(true) => made.push(part),
            other => {
                made.iter().for_each(|part| drop(std::fs::remove_file(record_file(paths, *part))));
                return other;
            }
        }
    }
    for old in own.iter().filter(|old| bases(base, count).all(|part| part != **old)) {
        let _ = std::fs::remove_file(record_file(paths, *old));
    }
    Ok(true)
}

/// Records a part of a range. Returns `false` if another machine was faster.
fn record(paths: &Paths, name: &Name, base: u32) -> Result<bool> {
    let file = record_file(paths, base);
    let doing = || format!("cannot record the id range in '{}'", file.display());
    std::fs::create_dir_all(directory(paths)).context(doing)?;
    // Written completely before it gets its name: a full disk leaves no record without a machine.
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

/// Returns the ranges in use by others: recorded ones, those of subuid(5) and subgid(5), and the ids of the
/// host's users and groups. Start and end, exclusive.
fn taken(paths: &Paths, own: &[u32]) -> Vec<(u64, u64)> {
    let others = all_bases(paths).filter(|base| !own.contains(base));
    let recorded = others.map(|base| (u64::from(base), u64::from(base) + u64::from(RANGE_SIZE)));
    recorded.chain(delegated(paths)).collect()
}

/// Returns the ranges of subuid(5) and subgid(5), and the ids of the host's users and groups. Start and end,
/// exclusive.
pub(crate) fn delegated(paths: &Paths) -> Vec<(u64, u64)> {
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
    use crate::machine::users::NESTING_RANGE_SIZE;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn a_machine_keeps_a_range_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let base = choose(&paths, &name("web"), RangeRetention::Recorded, RANGE_SIZE).unwrap();
        let held = lock(&paths, base).unwrap();
        for error in [
            choose(&paths, &name("web"), RangeRetention::Recorded, RANGE_SIZE).unwrap_err(),
            lock(&paths, base).unwrap_err(),
        ] {
            assert!(error.to_string().contains("in use"), "{error}");
        }
        drop(held);
        assert_eq!(choose(&paths, &name("web"), RangeRetention::Recorded, RANGE_SIZE).unwrap(), base);
        for other in 0..50 {
            let other =
                choose(&paths, &name(&format!("m{other}")), RangeRetention::Recorded, RANGE_SIZE).unwrap();
            assert_ne!(other, base);
            assert_eq!((other - FIRST) % RANGE_SIZE, 0);
        }
    }

    #[test]
    fn nesting_extends_the_range_of_a_machine() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let choose = |who: &str, count| choose(&paths, &name(who), RangeRetention::Recorded, count).unwrap();
        let base = choose("web", RANGE_SIZE);
        assert_eq!(choose("web", NESTING_RANGE_SIZE), base);
        assert_eq!(recorded(&paths, &name("web")), bases(base, NESTING_RANGE_SIZE).collect::<Vec<_>>());
        assert_eq!(choose("web", RANGE_SIZE), base);
        std::fs::remove_file(record_file(&paths, base + RANGE_SIZE)).unwrap();
        record(&paths, &name("other"), base + RANGE_SIZE).unwrap();
        let moved = choose("web", NESTING_RANGE_SIZE);
        assert_ne!(moved, base);
        assert_eq!(recorded(&paths, &name("web")), bases(moved, NESTING_RANGE_SIZE).collect::<Vec<_>>());
    }

    #[test]
    fn the_range_of_a_tree_is_adopted_if_it_is_free() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let base = 2_058_485_760;
        let adopt = |who: &str, keep| adopt(&paths, &name(who), base, keep, RANGE_SIZE);
        assert_eq!(adopt("web", RangeRetention::WhileRunning).unwrap(), Some(base));
        assert_eq!(records(&paths).count(), 0);
        let before = choose(&paths, &name("web"), RangeRetention::Recorded, RANGE_SIZE).unwrap();
        assert_ne!(before, base);
        assert_eq!(adopt("web", RangeRetention::Recorded).unwrap(), Some(base));
        assert_eq!(recorded(&paths, &name("web")), [base]);
        assert_eq!(adopt("other", RangeRetention::Recorded).unwrap(), None, "that of another machine");
        let held = lock(&paths, base).unwrap();
        assert_eq!(adopt("web", RangeRetention::Recorded).unwrap(), None, "that of a running container");
        drop(held);
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "u:x:2058485800:100::/:/bin/sh\n").unwrap();
        assert_eq!(adopt("web", RangeRetention::Recorded).unwrap(), None, "that of users of the host");
    }

    #[test]
    fn delegated_ranges_are_skipped() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/subuid"), "all:100000:4000000000\n").unwrap();
        let error = choose(&paths, &name("web"), RangeRetention::Recorded, RANGE_SIZE).unwrap_err();
        assert!(error.hint().unwrap().contains("/etc/subuid"));
        assert_eq!(records(&paths).count(), 0);
    }
}
