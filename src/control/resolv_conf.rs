//! Updates the name servers of running machines after a change of the host's. Called in
//! `coracle-resolver.service`, which `coracle-resolver.path` starts: systemd watches the files, so that
//! supervisors need no watch and do not wake up. Files that the guest has changed since are left alone.
//!
//! The file is opened in the guest's view. A file system of the guest may never answer: each machine has a
//! process of its own, killed after a timeout.

use super::{BatchResult, guest_child, running, signal};
use crate::error::{Context, Error, Result};
use crate::host::cgroup;
use crate::machine::name::Name;
use crate::machine::network::RESOLVED_DROP_IN;
use crate::network::resolv_conf;
use crate::network::resolv_conf::{MARK, Resolver};
use crate::paths::Paths;
use crate::state::record::{Phase, Record};
use crate::sys::guest_files::{self, GuestRoot, Owners};
use crate::sys::process::send_signal;
use rustix::fd::AsFd;
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The timeout for one machine. A starting machine is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The interval of checks whether a process has exited.
const PAUSE: Duration = Duration::from_millis(5);
/// The maximum size of a file written by Coracle.
const LARGEST: u64 = 64 << 10;
/// The longest time that a timestamp of a file is behind the clock, in microseconds: the period of the timer
/// interrupt of a kernel with the lowest frequency, 100 Hz.
const TICK: u64 = 10_000;
/// The guest's file, and the file mounted over it in a read-only tree.
const PLACES: [&str; 2] = ["etc/resolv.conf", "run/host-resolv.conf"];

/// Updates every machine that follows the host's name servers.
///
/// # Errors
/// One per machine that was not updated.
pub(crate) fn update_all(paths: &Paths) -> BatchResult {
    loop {
        let resolver = resolv_conf::find(paths);
        let text = resolver.as_ref().map(stamp_text);
        let is_current = |record: &Record| std::fs::read_to_string(stamp(paths, &record.name)).ok() == text;
        let machines = Record::all(paths).into_iter().filter(|record| record.resolver && record.is_alive());
        let failures = match &text {
            Some(_) => update_each(paths, machines.filter(|record| !is_current(record)).collect()),
            // A host without name servers has lost its network for now: the machines keep theirs.
            None => Vec::new(),
        };
        // systemd does not start the service again for changes during its run.
        if resolv_conf::find(paths) == resolver {
            return if failures.is_empty() { Ok(()) } else { Err(failures) };
        }
    }
}

/// The file with the last update of a machine. The path unit is also triggered by unrelated changes of the
/// host's files.
fn stamp(paths: &Paths, name: &Name) -> PathBuf {
    paths.machine(name).join("resolver")
}

/// Returns the content of a machine's stamp: its name servers before the redirect.
fn stamp_text(resolver: &Resolver) -> String {
    let at_loopback = resolver.at_loopback.map(|own| format!("# at the host's {own}\n"));
    resolver.to_string() + &at_loopback.unwrap_or_default()
}

/// Starts a process per machine that updates it.
fn update_each(paths: &Paths, machines: Vec<Record>) -> Vec<Error> {
    let begin = |record: Record| {
        let root = paths.join("/");
        let mut command = Command::new("/proc/self/exe");
        let child = command.arg("--root").arg(root).args(["dns-update", record.name.as_str()]).spawn();
        (record.name, child)
    };
    let begun: Vec<_> = machines.into_iter().map(begin).collect();
    let until = Instant::now() + PATIENCE;
    let end = |(name, child): (Name, std::io::Result<Child>)| {
        let ended =
            child.context(|| "cannot start a process".to_owned()).and_then(|child| wait(child, until));
        ended.err().map(|error| error.context(format!("cannot update the name servers of machine '{name}'")))
    };
    begun.into_iter().filter_map(end).collect()
}

fn wait(mut child: Child, until: Instant) -> Result<()> {
    loop {
        match child.try_wait().context(|| "cannot wait for the process".to_owned())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(Error::new(format!("{status}"))),
            None if Instant::now() < until => std::thread::sleep(PAUSE),
            None => {
                let _ = child.kill();
                return Err(Error::new("the file system of the guest does not answer"));
            }
        }
    }
}

/// Updates one machine.
///
/// # Errors
/// The machine is not running, or the file cannot be written.
pub(crate) fn update(paths: &Paths, name: &Name) -> Result<()> {
    let begun = Instant::now();
    let record = loop {
        let record = running(paths, name)?;
        if record.phase != Phase::Starting || begun.elapsed() > PATIENCE {
            break record;
        }
        std::thread::sleep(PAUSE);
    };
    let (Some(resolver), true) = (resolv_conf::find(paths), record.resolver) else {
        return Ok(());
    };
    let noted = stamp_text(&resolver);
    redirect(paths, &record, &resolver)?;
    let resolver = resolver.behind(record.gateway());
    let (text, drop_in) = (resolver.to_string(), resolver.drop_in());
    let leader = signal::leader(&record)?;
    let is_new = guest_child::run(&record, &leader, || {
        let root = GuestRoot::of_caller()?;
        let write = |place: &str, text: &str| {
            write(&root, Path::new(place), text, &record)
                .context(|| format!("cannot write '/{place}' in machine '{name}'"))
        };
        PLACES.iter().try_for_each(|place| write(place, &text).map(|_| ()))?;
        write(RESOLVED_DROP_IN.trim_start_matches('/'), &drop_in)
    })?;
    if is_new {
        reload_resolved(&record);
    }
    let stamp = stamp(paths, name);
    let noted = std::fs::write(&stamp, noted);
    if Record::read(paths, name)?.is_none() {
        // The machine was cleaned up in the meantime.
        let _ = std::fs::remove_file(&stamp);
        let _ = std::fs::remove_dir(paths.machine(name));
        return Ok(());
    }
    noted.context(|| format!("cannot write '{}'", stamp.display()))
}

/// Requests the supervisor to update the redirect to the host's own resolver.
fn redirect(paths: &Paths, record: &Record, resolver: &Resolver) -> Result<()> {
    match &record.firewall {
        Some(member) if member.resolver() != resolver.at_loopback => {
            super::network_update::call(paths, &record.name, member.ports(), member.policy())
        }
        _ => Ok(()),
    }
}

/// Signals the guest's systemd-resolved, which reloads its configuration on SIGHUP. Versions before 256 exit
/// on SIGHUP, and systemd restarts them (Restart=always).
fn reload_resolved(record: &Record) {
    let service = "system.slice/systemd-resolved.service";
    let Some(cgroup) = record.payload_cgroup().map(|payload| payload.join(service)) else { return };
    cgroup::for_each_process(&cgroup, &mut |_, process| {
        let _ = send_signal(process.as_fd(), libc::SIGHUP);
    });
}

/// Overwrites a file of the guest in place if Coracle wrote it: open descriptors and mounts show the new
/// text. Returns whether the text is new.
fn write(root: &GuestRoot, place: &Path, new: &str, record: &Record) -> std::io::Result<bool> {
    let in_tree = root.find_own(place, Owners::ALL).ok();
    let is_in_tree = in_tree.is_some();
    let found = match in_tree.map_or_else(|| root.find(place), Ok) {
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            _ => return Err(error),
        },
        Ok(found) => found,
    };
    let stat = rustix::fs::fstat(&found)?;
    let is_small = u64::try_from(stat.st_size).is_ok_and(|size| size <= LARGEST);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !is_small {
        return Ok(false);
    }
    let mut text = Vec::new();
    File::from(guest_files::reopen_file(&found, OFlags::RDONLY)?).take(LARGEST).read_to_end(&mut text)?;
    let is_ours = text.starts_with(MARK.as_bytes()) || is_in_tree && is_untouched(&stat, record);
    if !is_ours || text == new.as_bytes() {
        return Ok(false);
    }
    let file = match guest_files::reopen_file(&found, OFlags::WRONLY) {
        // Mounted over: the covering file is the next entry of `PLACES`. Or the file is immutable, which the
        // start has reported.
        Err(Errno::ROFS | Errno::PERM | Errno::ACCESS) => return Ok(false),
        other => File::from(other?),
    };
    file.write_all_at(new.as_bytes(), 0).and_then(|()| file.set_len(new.len() as u64))?;
    Ok(true)
}

/// Returns whether a file of the tree is unchanged since the start of the machine. The start would have
/// overwritten it, but the host had no name server then. Only files of the guest's root: Coracle does not
/// write files that the guest could not write.
fn is_untouched(stat: &Stat, record: &Record) -> bool {
    let seconds = u64::try_from(stat.st_ctime).unwrap_or(u64::MAX);
    let changed = seconds.saturating_mul(1_000_000).saturating_add(stat.st_ctime_nsec / 1000);
    changed.saturating_add(TICK) < record.started && stat.st_uid == 0
}
