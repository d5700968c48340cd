//! `poweroff`, `reboot`, `terminate` and `kill`: signals to the supervisor of a machine or to processes
//! inside. They need neither a bus nor systemd. Each process is opened as a pidfd and checked again
//! afterwards, so that a later process with the same id is not signalled.

use super::{BatchResult, each, running};
use crate::error::{Context, Error, Result};
use crate::host::cgroup;
use crate::host::procfs::start_time;
use crate::machine::init::PayloadKind;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::{Phase, Record};
use crate::sys::process::{open_pidfd, send_signal};
use crate::sys::pseudo_file;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The timeout for a supervisor to enter the phase `stopping`, and to exit after the second signal.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time of a stop without a report of what it waits for.
pub(super) const UNREPORTED: Duration = Duration::from_secs(5);

/// The time for processes to end after a signal, before PID 1 receives it.
const REAPING: Duration = Duration::from_secs(1);

/// The receiver of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillTarget {
    /// PID 1 of the machine.
    Leader,
    /// Every process of the machine.
    All,
}

/// Requests guests to power off, without waiting for them.
///
/// # Errors
/// One per machine that is not running or cannot be signalled.
pub(crate) fn poweroff(paths: &Paths, names: &[Name]) -> BatchResult {
    each(names, |name| signal_supervisor(&running(paths, name)?, libc::SIGTERM))
}

/// Requests guests to reboot, without waiting for them.
///
/// # Errors
/// One per machine that is not running or cannot be signalled.
pub(crate) fn reboot(paths: &Paths, names: &[Name]) -> BatchResult {
    each(names, |name| {
        let record = running(paths, name)?;
        if record.init == Some(PayloadKind::Command) {
            return Err(Error::new(format!("machine '{name}' runs a command, which has no reboot"))
                .with_hint(format!("end it with 'coracle stop {name}', and run it again")));
        }
        signal_supervisor(&record, libc::SIGUSR1)
    })
}

/// Terminates machines without a shutdown, and waits until they have stopped.
///
/// # Errors
/// One per machine that is not running, cannot be signalled, or does not stop.
pub(crate) fn terminate(paths: &Paths, names: &[Name]) -> BatchResult {
    each(names, |name| {
        let record = running(paths, name)?;
        let supervisor = supervisor(&record)?;
        // The first SIGTERM starts a shutdown, the second one ends it at once. Two pending SIGTERMs are
        // delivered as one: the second one is sent after the first has taken effect.
        if begin_stop(paths, name, supervisor.as_fd())? {
            send(supervisor.as_fd(), libc::SIGTERM, name)?;
        }
        if has_ended(supervisor.as_fd(), PATIENCE)? {
            return Ok(());
        }
        Err(Error::new(format!("machine '{name}' did not stop within 10 s"))
            .with_hint(format!("kill its supervisor: kill -9 {}", record.supervisor)))
    })
}

/// Requests a supervisor to shut down its guest, and waits until it does. Returns false if it has ended
/// instead.
fn begin_stop(paths: &Paths, name: &Name, supervisor: BorrowedFd<'_>) -> Result<bool> {
    send(supervisor, libc::SIGTERM, name)?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && !has_ended(supervisor, Duration::from_millis(10))? {
        let phase = Record::read(paths, name).ok().flatten().map(|record| record.phase);
        if phase == Some(Phase::Stopping) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sends a signal, by number, to processes in machines. `report` is called with the number of processes of
/// each machine.
///
/// # Errors
/// One per machine that is not running or cannot be signalled.
pub(crate) fn kill(
    paths: &Paths,
    names: &[Name],
    signal: i32,
    target: KillTarget,
    mut report: impl FnMut(&Name, usize),
) -> BatchResult {
    each(names, |name| {
        let record = running(paths, name)?;
        if signal == libc::SIGKILL && record.unit.is_some() {
            // The end is requested: the unit does not fail.
            let supervisor = supervisor(&record)?;
            if !begin_stop(paths, name, supervisor.as_fd())? {
                return Ok(());
            }
        }
        match target {
            KillTarget::Leader => {
                send(leader(&record)?.as_fd(), signal, name)?;
                report(name, 1);
            }
            KillTarget::All => report(name, kill_all(&record, signal, name)?),
        }
        Ok(())
    })
}

/// Requests a supervisor to shut down its guest, and waits until it exits. The supervisor has timeouts of its
/// own. `report` is called if the stop takes longer.
pub(super) fn stop_and_wait(record: &Record, report: impl FnOnce()) -> Result<()> {
    let supervisor = supervisor(record)?;
    send(supervisor.as_fd(), libc::SIGTERM, &record.name)?;
    if !has_ended(supervisor.as_fd(), UNREPORTED)? {
        report();
        while !has_ended(supervisor.as_fd(), PATIENCE)? {}
    }
    Ok(())
}

/// Requests a supervisor to shut down its guest, and waits until nothing of the machine is left. The supervisor
/// may go on to remove discarded changes. `report` is called if the stop takes longer.
pub(super) fn stop_and_wait_for_answer(paths: &Paths, record: &Record, report: impl FnOnce()) -> Result<()> {
    // It closes the connection when it has forgotten the machine.
    let connection = UnixStream::connect(paths.control(&record.name));
    let supervisor = supervisor(record)?;
    send(supervisor.as_fd(), libc::SIGTERM, &record.name)?;
    if let Ok(connection) = connection {
        let answered = has_ended(connection.as_fd(), UNREPORTED)?;
        if answered && !Record::is_written(paths, &record.name) {
            return Ok(());
        }
    }
    if !has_ended(supervisor.as_fd(), UNREPORTED)? {
        report();
        while !has_ended(supervisor.as_fd(), PATIENCE)? {}
    }
    Ok(())
}

/// Kills the supervisor of a machine, and waits until it has ended.
pub(super) fn kill_supervisor(record: &Record) -> Result<()> {
    let supervisor = supervisor(record)?;
    send(supervisor.as_fd(), libc::SIGKILL, &record.name)?;
    wait_for_end(supervisor)
}

/// Waits until a killed process has ended.
pub(super) fn wait_for_end(process: OwnedFd) -> Result<()> {
    if has_ended(process.as_fd(), PATIENCE)? {
        return Ok(());
    }
    Err(Error::new("a killed process does not end").with_hint("try again later: it waits for the kernel"))
}

/// Requests the guest of a running machine to reboot.
pub(super) fn request_reboot(record: &Record) -> Result<()> {
    signal_supervisor(record, libc::SIGUSR1)
}

/// Sends a signal to the supervisor of a machine.
fn signal_supervisor(record: &Record, signal: i32) -> Result<()> {
    send(supervisor(record)?.as_fd(), signal, &record.name)
}

/// Opens a pidfd of the supervisor.
fn supervisor(record: &Record) -> Result<OwnedFd> {
    let gone = || Error::new(format!("the supervisor of machine '{}' is gone", record.name));
    let pidfd = open_pidfd(record.supervisor).map_err(|_| gone())?;
    // With the open pidfd the process id cannot be reused.
    if start_time(record.supervisor) == Some(record.supervisor_start) { Ok(pidfd) } else { Err(gone()) }
}

/// Opens a pidfd of PID 1. A process that is not a child of the supervisor has reused the process id.
pub(super) fn leader(record: &Record) -> Result<OwnedFd> {
    let gone = || {
        Error::new(format!("machine '{}' has no PID 1 now", record.name)).with_hint("try again in a moment")
    };
    let leader = record.leader.ok_or_else(gone)?;
    let pidfd = open_pidfd(leader).map_err(|_| gone())?;
    if parent(leader) == Some(record.supervisor) { Ok(pidfd) } else { Err(gone()) }
}

/// Kills PID 1 of a machine, which counts as a failure.
///
/// # Errors
/// It has no PID 1 now, or cannot be signalled.
pub(super) fn kill_leader(record: &Record) -> Result<()> {
    send(leader(record)?.as_fd(), libc::SIGKILL, &record.name)
}

/// Signals every process of a machine: those in its cgroup, or without a cgroup those in the pid namespace of
/// PID 1. Returns their number.
///
/// PID 1 is the last one, after it has reaped the others that the signal ends. systemd executes itself again
/// on SIGTERM; if the killed message bus still counts as running then, it waits 90 s for the bus, and reads
/// no signals meanwhile.
fn kill_all(record: &Record, signal: i32, name: &Name) -> Result<usize> {
    let Some(payload) = record.payload_cgroup().filter(|path| path.is_dir()) else {
        return kill_namespace(record, signal, name);
    };
    // cgroup.kill also reaches processes forked in the meantime.
    if signal == libc::SIGKILL {
        let count = cgroup::processes(&payload).len();
        if std::fs::write(payload.join("cgroup.kill"), "1").is_ok() {
            return Ok(count);
        }
    }
    let (mut failure, mut others, mut first) = (Ok(()), Vec::new(), None);
    let leader = record.leader;
    cgroup::for_each_process(&payload, &mut |pid, process| {
        if Some(pid) == leader {
            first = Some(process);
            return;
        }
        if let Err(error) = send(process.as_fd(), signal, name) {
            failure = Err(error);
        }
        others.push(process);
    });
    let count = others.len() + first.iter().count();
    if let Some(first) = first {
        if signal == libc::SIGTERM {
            wait_until_reaped(others);
        }
        send(first.as_fd(), signal, name)?;
    }
    failure.map(|()| count)
}

/// Waits until the processes that have received a signal are reaped, except for those that handle it.
fn wait_until_reaped(mut processes: Vec<OwnedFd>) {
    let begun = Instant::now();
    while !processes.is_empty() && begun.elapsed() < REAPING {
        std::thread::sleep(Duration::from_millis(10));
        // A zombie still receives signals (pidfd_send_signal(2)).
        processes.retain(|process| send_signal(process.as_fd(), 0).is_ok());
    }
}

/// Signals the processes in the pid namespace of PID 1. Processes in nested pid namespaces are not found
/// without a cgroup. Returns their number.
fn kill_namespace(record: &Record, signal: i32, name: &Name) -> Result<usize> {
    let pidfd = leader(record)?;
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let ours = record.leader.and_then(namespace);
    if ours.is_none() || ours == namespace(std::process::id()) {
        return send(pidfd.as_fd(), signal, name).map(|()| 1);
    }
    let entries = std::fs::read_dir("/proc").context(|| "cannot list processes".to_owned())?;
    let mut count = 0;
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if namespace(pid) == ours {
            signal_if(pid, signal, name, &|pid| namespace(pid) == ours)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Signals a process if it still matches after the pidfd is open. A process that has exited is not an error.
fn signal_if(pid: u32, signal: i32, name: &Name, is_meant: &dyn Fn(u32) -> bool) -> Result<()> {
    match open_pidfd(pid) {
        Ok(pidfd) if is_meant(pid) => send(pidfd.as_fd(), signal, name),
        _ => Ok(()),
    }
}

/// Returns the parent of a process.
fn parent(pid: u32) -> Option<u32> {
    let status = pseudo_file::read(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Returns whether the process of a pidfd exits within a time.
fn has_ended(pidfd: BorrowedFd<'_>, within: Duration) -> Result<bool> {
    let timeout = rustix::time::Timespec {
        tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(within.subsec_nanos()),
    };
    match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&timeout)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        ended => Ok(ended.context(|| "cannot wait for the supervisor".to_owned())? > 0),
    }
}

/// Signals the process of a pidfd. A process that has exited is not an error.
fn send(pidfd: BorrowedFd<'_>, signal: i32, name: &Name) -> Result<()> {
    match send_signal(pidfd, signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        sent => sent.context(|| format!("cannot signal machine '{name}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// Writes a record with a child of this test as supervisor, below a temporary root.
    fn machine(child: &Child) -> (tempfile::TempDir, Paths, Name) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let name = Name::new("web").unwrap();
        std::fs::create_dir_all(paths.machine(&name)).unwrap();
        let record = Record {
            supervisor: child.id(),
            supervisor_start: start_time(child.id()).unwrap(),
            phase: Phase::Stopping,
            ..Record::new(name.clone())
        };
        record.write(&paths).unwrap();
        (root, paths, name)
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn signal_of(mut child: Child) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        child.wait().unwrap().signal()
    }

    #[test]
    fn the_supervisor_is_signalled() {
        for (signal, expected) in [
            (poweroff as fn(&Paths, &[Name]) -> BatchResult, libc::SIGTERM),
            (reboot, libc::SIGUSR1),
            (terminate, libc::SIGTERM),
        ] {
            let child = sleeper();
            let (_root, paths, name) = machine(&child);
            signal(&paths, &[name]).unwrap();
            assert_eq!(signal_of(child), Some(expected));
        }
    }

    #[test]
    fn another_process_with_the_same_id_is_not_signalled() {
        let mut child = sleeper();
        let (_root, paths, name) = machine(&child);
        let record = Record { supervisor_start: 1, ..Record::read(&paths, &name).unwrap().unwrap() };
        record.write(&paths).unwrap();
        let failures = poweroff(&paths, std::slice::from_ref(&name)).unwrap_err();
        assert_eq!(failures[0].to_string(), "machine 'web' is not running");
        assert!(failures[0].hint().unwrap().contains("coracle start web"));
        assert!(supervisor(&record).is_err());
        // Init is not a child of this supervisor.
        let record = Record { leader: Some(1), ..record };
        assert!(leader(&record).unwrap_err().to_string().contains("no PID 1"));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_leader_is_a_child_of_the_supervisor() {
        let child = sleeper();
        let (_root, paths, name) = machine(&child);
        let record = Record {
            supervisor: std::process::id(),
            supervisor_start: start_time(std::process::id()).unwrap(),
            leader: Some(child.id()),
            ..Record::read(&paths, &name).unwrap().unwrap()
        };
        record.write(&paths).unwrap();
        kill(&paths, &[name], libc::SIGUSR1, KillTarget::Leader, |_, count| assert_eq!(count, 1)).unwrap();
        assert_eq!(signal_of(child), Some(libc::SIGUSR1));
    }
}
