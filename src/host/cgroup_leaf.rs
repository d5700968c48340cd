//! The cgroups of the commands of a build session: `cmd-N` below that of the guest, beside `init` for PID 1. A
//! leaf is used again: the kernel keeps a removed cgroup as long as pages are charged to it. Only a leaf whose
//! processes were killed is removed.
//!
//! KERNEL(6.14): a process cloned into a cgroup is killed if `cgroup.kill` was written to it before more often
//! than to the cgroup of its parent.

use super::cgroup::remove_below;
use crate::error::{Context, Error, Result};
use crate::sys::{mount, pseudo_file};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The cgroup of PID 1.
const INIT: &str = "init";
/// The controllers that measure a command.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];
/// The time for killed processes to end: one in uninterruptible sleep may take long.
const ENDING: Duration = Duration::from_secs(10);
/// The time for those of an earlier command: the next one has another leaf then.
const ENDING_BEFORE: Duration = Duration::from_secs(1);

/// Moves PID 1 to a cgroup of its own, and measures cgroups beside it, if there are controllers.
///
/// # Errors
/// The cgroup that cannot be created, and the cause.
pub(crate) fn separate(payload: &Path, leader: u32) -> Result<()> {
    let available = pseudo_file::read(payload.join("cgroup.controllers")).unwrap_or_default();
    let wanted: Vec<&str> =
        CONTROLLERS.into_iter().filter(|name| available.split_whitespace().any(|one| one == *name)).collect();
    if wanted.is_empty() {
        // Without controllers, processes may be in inner cgroups too.
        return Ok(());
    }
    let init = payload.join(INIT);
    std::fs::create_dir(&init)
        .and_then(|()| pseudo_file::write(init.join("cgroup.procs"), leader.to_string()))
        .context(|| format!("cannot move PID 1 to cgroup '{}'", init.display()))?;
    for name in wanted {
        pseudo_file::write(payload.join("cgroup.subtree_control"), format!("+{name}"))
            .unwrap_or_else(|error| log::debug!("cannot enable controller '{name}': {error}, ignoring"));
    }
    Ok(())
}

/// The resources that a command has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// The time of all processors, microseconds.
    pub(crate) cpu_usec: Option<u64>,
    /// The largest memory, bytes.
    pub(crate) memory_peak: Option<u64>,
    /// The number of processes that the out-of-memory killer has killed.
    pub(crate) oom_kills: u64,
}

/// The processes that a command leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// They are killed.
    Killed,
    /// They go on.
    Kept,
}

impl Rest {
    /// Returns the first part of the names of the cgroups.
    fn prefix(self) -> &'static str {
        match self {
            Self::Killed => "cmd",
            Self::Kept => "kept",
        }
    }
}

/// The state of a leaf after its processes were killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cleared {
    /// It had no processes: it can be used again.
    Empty,
    /// They have ended, and the leaf is removed.
    Removed,
    /// One of them does not end.
    Stuck,
}

/// A cgroup for one command, locked by this process.
#[derive(Debug)]
pub(crate) struct Leaf {
    /// The cgroup of the guest.
    payload: OwnedFd,
    name: String,
    directory: OwnedFd,
    /// The file of the largest memory: it counts from the last write to this descriptor.
    peak: Option<File>,
    before: Usage,
}

impl Leaf {
    /// Takes the first free cgroup for a command. Processes of a killed client in it are killed; those that
    /// a command was to leave are in cgroups of their own, which are free when these have ended.
    ///
    /// # Errors
    /// The cgroup that cannot be created, and the cause.
    pub(crate) fn take(payload: &Path, rest: Rest) -> Result<Self> {
        Self::take_within(payload, rest, ENDING_BEFORE)
    }

    fn take_within(payload: &Path, rest: Rest, limit: Duration) -> Result<Self> {
        let mut payload = mount::open_directory(payload)?;
        let mut number = 0u32;
        loop {
            let name = format!("{}-{number}", rest.prefix());
            let doing = || format!("cannot use cgroup '{name}' for a command");
            match rustix::fs::mkdirat(&payload, &name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).context(doing),
            }
            let Some(directory) = lock(&payload, &name).context(doing)? else {
                number += 1;
                continue;
            };
            let mut leaf = Self { payload, name, directory, peak: None, before: Usage::default() };
            if rest == Rest::Kept && leaf.is_populated()? {
                number += 1;
            } else {
                match leaf.clear(limit)? {
                    Cleared::Empty => {
                        leaf.begin();
                        return Ok(leaf);
                    }
                    Cleared::Removed => {}
                    Cleared::Stuck => number += 1,
                }
            }
            payload = leaf.payload;
        }
    }

    /// Begins to measure.
    fn begin(&mut self) {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let peak = rustix::fs::openat(&self.directory, "memory.peak", flags, Mode::empty());
        self.peak = peak.ok().map(File::from);
        if let Some(peak) = &mut self.peak {
            // KERNEL(6.12): it cannot be reset before, and is that of all commands of the leaf.
            let _ = peak.write_all(b"reset\n");
        }
        self.before = self.counters();
    }

    /// Returns the directory, for a clone into it.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Returns the processes of the leaf.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let text = self.read("cgroup.procs");
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills all processes of the leaf.
    pub(crate) fn kill(&self) {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, "cgroup.kill", flags, Mode::empty());
        let written = file.and_then(|file| rustix::io::write(&file, b"1"));
        if let Err(errno) = written {
            log::debug!("cannot kill the processes of a command: {}, ignoring", Error::from(errno));
        }
    }

    /// Kills all processes of the leaf, waits until they have ended, and removes it. A leaf without processes
    /// stays.
    ///
    /// # Errors
    /// The file of the cgroup that cannot be read.
    pub(crate) fn clear_rest(&self) -> Result<Cleared> {
        self.clear(ENDING)
    }

    fn clear(&self, limit: Duration) -> Result<Cleared> {
        let events = self.events()?;
        let until = Instant::now() + limit;
        let mut is_killed = false;
        while is_populated(&events)? {
            if !std::mem::replace(&mut is_killed, true) {
                self.kill();
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Cleared::Stuck);
            }
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left));
        }
        if !is_killed {
            return Ok(Cleared::Empty);
        }
        self.remove();
        Ok(Cleared::Removed)
    }

    fn is_populated(&self) -> Result<bool> {
        is_populated(&self.events()?)
    }

    fn events(&self) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let events = rustix::fs::openat(&self.directory, "cgroup.events", flags, Mode::empty());
        events.context(|| "cannot watch the cgroup of a command").map(File::from)
    }

    /// Removes the leaf, with cgroups that the command has created in it.
    fn remove(&self) {
        let removed = remove_below(&self.payload, OsStr::new(&self.name));
        removed.unwrap_or_else(|errno| log::debug!("cannot remove a cgroup: {}", Error::from(errno)));
    }

    /// Returns what has been used since the leaf was taken.
    pub(crate) fn usage(&mut self) -> Usage {
        let now = self.counters();
        let since = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before.unwrap_or(0)));
        let mut text = String::new();
        let peak = self.peak.as_mut().and_then(|file| {
            file.rewind().and_then(|()| file.read_to_string(&mut text)).ok()?;
            text.trim().parse().ok()
        });
        Usage {
            cpu_usec: since(now.cpu_usec, self.before.cpu_usec),
            memory_peak: peak,
            oom_kills: now.oom_kills.saturating_sub(self.before.oom_kills),
        }
    }

    fn counters(&self) -> Usage {
        Usage {
            cpu_usec: counter(&self.read("cpu.stat"), "usage_usec"),
            memory_peak: None,
            oom_kills: counter(&self.read("memory.events"), "oom_kill").unwrap_or(0),
        }
    }

    fn read(&self, name: &str) -> String {
        let file = rustix::fs::openat(&self.directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let mut text = String::new();
        let _ = file.map(|file| File::from(file).read_to_string(&mut text));
        text
    }
}

/// Returns whether a cgroup has processes, by its events.
fn is_populated(mut events: &File) -> Result<bool> {
    let mut text = String::new();
    events
        .rewind()
        .and_then(|()| events.read_to_string(&mut text))
        .context(|| "cannot read the events of the cgroup of a command")?;
    Ok(!text.lines().any(|line| line == "populated 0"))
}

/// Opens and locks a leaf. `None` if a command uses it or has removed it.
fn lock(payload: &OwnedFd, name: &str) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(payload, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        directory => directory?,
    };
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    // The command before may have removed it meanwhile.
    let own = rustix::fs::fstat(&directory)?.st_ino;
    let there = rustix::fs::statat(payload, name, AtFlags::SYMLINK_NOFOLLOW);
    Ok(there.is_ok_and(|there| there.st_ino == own).then_some(directory))
}

/// Returns the number after a key in a file of lines.
fn counter(text: &str, key: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_that_another_command_uses_or_removes_is_not_taken() {
        let payload = tempfile::tempdir().unwrap();
        let opened = OwnedFd::from(File::open(payload.path()).unwrap());
        assert!(lock(&opened, "cmd-0").unwrap().is_none());
        std::fs::create_dir(payload.path().join("cmd-0")).unwrap();
        let locked = lock(&opened, "cmd-0").unwrap();
        assert!(locked.is_some() && lock(&opened, "cmd-0").unwrap().is_none());
    }

    #[test]
    fn a_process_that_does_not_end_blocks_no_other_command() {
        let payload = tempfile::tempdir().unwrap();
        for (name, populated) in [("cmd-0", 1), ("cmd-1", 0)] {
            let leaf = payload.path().join(name);
            std::fs::create_dir(&leaf).unwrap();
            std::fs::write(leaf.join("cgroup.events"), format!("populated {populated}\nfrozen 0\n")).unwrap();
            std::fs::write(leaf.join("cgroup.kill"), "").unwrap();
        }
        let leaf = Leaf::take_within(payload.path(), Rest::Killed, Duration::ZERO).unwrap();
        assert_eq!(leaf.name, "cmd-1");
        assert_eq!(std::fs::read(payload.path().join("cmd-0/cgroup.kill")).unwrap(), b"1");
    }

    #[test]
    fn a_counter_is_found_by_its_whole_key() {
        let text = "oom 3\noom_kill 1\noom_group_kill 7\n";
        assert_eq!([counter(text, "oom"), counter(text, "oom_kill")], [Some(3), Some(1)]);
        assert_eq!(counter(text, "kill"), None);
    }
}
