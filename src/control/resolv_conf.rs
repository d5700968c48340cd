//! Name servers of machines that run, after those of the host have changed. Called in
//! `coracle-resolver.service`, which `coracle-resolver.path` starts: systemd watches the files, so that no
//! supervisor has to, and none wakes up. What a guest has made of its file since is left alone.
//!
//! The file is found as the guest sees it. It may have put a file system there that never answers: so each
//! machine has a process of its own, which is ended after a while.

use super::{Outcome, guest_child, running, signal};
use crate::error::{Context, Error, Result};
use crate::host::cgroup;
use crate::machine::name::Name;
use crate::machine::network::RESOLVED_DROP_IN;
use crate::network::resolv_conf;
use crate::network::resolv_conf::{MARK, Resolver};
use crate::paths::Paths;
use crate::state::record::{Phase, Record};
use crate::sys::guest_files::{self, Owners, Root};
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

/// How long one machine may take: one that is just starting is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether it is done.
const PAUSE: Duration = Duration::from_millis(5);
/// A larger file is none of ours.
const LARGEST: u64 = 64 << 10;
/// The guest's file, and what is mounted over that of a tree in which nobody can write.
const PLACES: [&str; 2] = ["etc/resolv.conf", "run/host-resolv.conf"];

/// Tells every machine that has its name servers from us.
///
/// # Errors
/// Those that could not be resolver.
pub fn update_all(paths: &Paths) -> Outcome {
    loop {
        let resolver = resolv_conf::find(paths);
        let text = resolver.as_ref().map(stamp_text);
        let is_current = |record: &Record| std::fs::read_to_string(stamp(paths, &record.name)).ok() == text;
        let machines = Record::all(paths).into_iter().filter(|record| record.resolver && record.is_alive());
        let failures = match &text {
            Some(_) => update_each(paths, machines.filter(|record| !is_current(record)).collect()),
            // A host without any has lost its network, and will have some again.
            None => Vec::new(),
        };
        // systemd does not start us anew for what changed meanwhile.
        if resolv_conf::find(paths) == resolver {
            return if failures.is_empty() { Ok(()) } else { Err(failures) };
        }
    }
}

/// Where it is written down what a machine was resolver last: all that changes beside the host's files starts us.
fn stamp(paths: &Paths, name: &str) -> PathBuf {
    paths.state().join(name).join("resolver")
}

/// Returns the content of a machine's stamp: its name servers before the redirect.
fn stamp_text(resolver: &Resolver) -> String {
    let at_loopback = resolver.at_loopback.map(|own| format!("# at the host's {own}\n"));
    resolver.to_string() + &at_loopback.unwrap_or_default()
}

/// Has a process tell each.
fn update_each(paths: &Paths, machines: Vec<Record>) -> Vec<Error> {
    let begin = |record: Record| {
        let root = paths.join("/");
        let mut command = Command::new("/proc/self/exe");
        let child = command.arg("--root").arg(root).args(["dns-update", &record.name]).spawn();
        (record.name, child)
    };
    let begun: Vec<_> = machines.into_iter().map(begin).collect();
    let until = Instant::now() + PATIENCE;
    let end = |(name, child): (String, std::io::Result<Child>)| {
        let ended = child.context(|| "cannot begin".to_owned()).and_then(|child| wait(child, until));
        ended.err().map(|error| error.context(format!("cannot tell machine '{name}' of the name servers")))
    };
    begun.into_iter().filter_map(end).collect()
}

fn wait(mut child: Child, until: Instant) -> Result<()> {
    loop {
        match child.try_wait().context(|| "cannot wait for it".to_owned())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(Error::new(format!("{status}"))),
            None if Instant::now() < until => std::thread::sleep(PAUSE),
            None => {
                let _ = child.kill();
                return Err(Error::new("its file does not answer"));
            }
        }
    }
}

/// Tells one machine.
///
/// # Errors
/// One that does not run, or a file that cannot be written.
pub fn update(paths: &Paths, name: &Name) -> Result<()> {
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
        let root = Root::of_caller()?;
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
    let stamp = stamp(paths, name.as_str());
    let noted = std::fs::write(&stamp, noted);
    if Record::read(paths, name)?.is_none() {
        // It was cleaned up meanwhile.
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

/// Makes the guest's systemd-resolved read its drop-in: it reloads its configuration on SIGHUP. Versions before 256 exit
/// on SIGHUP, and systemd restarts them (Restart=always).
fn reload_resolved(record: &Record) {
    let service = "system.slice/systemd-resolved.service";
    let Some(cgroup) = record.payload_cgroup().map(|payload| payload.join(service)) else { return };
    cgroup::for_each_process(&cgroup, &mut |process| {
        let _ = send_signal(process.as_fd(), libc::SIGHUP);
    });
}

/// Writes a file of the guest where it is one of ours, in place: who has it open or mounted sees the new text.
/// Returns whether the text is new.
fn write(root: &Root, place: &Path, new: &str, record: &Record) -> std::io::Result<bool> {
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
        // Mounted over, what is under it is the next place; or its owner keeps it from being written, as the start said.
        Err(Errno::ROFS | Errno::PERM | Errno::ACCESS) => return Ok(false),
        other => File::from(other?),
    };
    file.write_all_at(new.as_bytes(), 0).and_then(|()| file.set_len(new.len() as u64))?;
    Ok(true)
}

/// Whether a file of the tree is what it was when the machine was started: a start would have written over it, but the
/// host had no name server by then. Only what the guest's root owns: nothing is written for it that it cannot write.
fn is_untouched(stat: &Stat, record: &Record) -> bool {
    let changed =
        u64::try_from(stat.st_ctime).unwrap_or(u64::MAX).saturating_add(1).saturating_mul(1_000_000);
    changed < record.started && stat.st_uid == 0
}
