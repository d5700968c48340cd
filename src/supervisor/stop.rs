//! An orderly stop and what follows when it takes too long: the init's own way first, then SIGTERM
//! to every process of the guest, then SIGKILL to its PID 1, which takes all others along.

use crate::machine::init::Init;
use crate::plan::init::{StopAction, orderly_reboot, orderly_stop};
use crate::sys::{mount, process};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{FileType, Mode, OFlags};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the guest's processes have between SIGTERM and SIGKILL.
const AFTER_TERM: Duration = Duration::from_secs(5);

/// How far a stop has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Asked,
    Terminated,
    Killed,
}

/// A stop under way.
#[derive(Debug)]
pub struct Stop {
    stage: Stage,
    deadline: Option<Instant>,
}

impl Stop {
    /// Asks the guest. A command without a signal of its own to stop it is killed, as
    /// systemd-nspawn(1), `--kill-signal=`, does.
    pub fn begin(
        init: Init,
        is_boot: bool,
        signal: Option<i32>,
        limit: Option<Duration>,
        leader: BorrowedFd<'_>,
        pid: u32,
    ) -> Self {
        let mut stop =
            Self { stage: Stage::Asked, deadline: limit.and_then(|limit| Instant::now().checked_add(limit)) };
        if !is_boot && signal.is_none() {
            stop.kill(leader);
        } else {
            act(&orderly_stop(init, signal), leader, pid);
        }
        stop
    }

    /// How long until the next stage; nothing where there is none.
    pub fn time_left(&self) -> Option<Duration> {
        (self.stage != Stage::Killed)
            .then_some(self.deadline)
            .flatten()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the guest did not stop by itself.
    pub fn was_killed(&self) -> bool {
        self.stage == Stage::Killed
    }

    /// The next call of [`Self::escalate`] kills.
    pub fn kill_now(&mut self) {
        if self.stage == Stage::Asked {
            self.stage = Stage::Terminated;
        }
        self.deadline = Some(Instant::now());
    }

    /// Goes to the next stage where its time has come.
    pub fn escalate(&mut self, leader: BorrowedFd<'_>, cgroup: Option<&Path>) {
        if self.time_left() != Some(Duration::ZERO) {
            return;
        }
        match self.stage {
            Stage::Asked => {
                log::warn!("the guest did not stop in time; terminating its processes");
                terminate(&cgroup.map(|cgroup| cgroup.join("payload")).unwrap_or_default());
                self.stage = Stage::Terminated;
                self.deadline = Some(Instant::now() + AFTER_TERM);
            }
            Stage::Terminated => {
                log::warn!("killing the guest");
                self.kill(leader);
            }
            Stage::Killed => {}
        }
    }

    fn kill(&mut self, leader: BorrowedFd<'_>) {
        self.stage = Stage::Killed;
        if let Err(error) = process::send_signal(leader, libc::SIGKILL) {
            log::debug!("cannot kill PID 1: {error}, ignoring");
        }
    }
}

/// Asks the guest to reboot in order.
pub fn reboot(init: Init, leader: BorrowedFd<'_>, pid: u32) {
    act(&orderly_reboot(init), leader, pid);
}

fn act(actions: &[StopAction], leader: BorrowedFd<'_>, pid: u32) {
    for action in actions {
        let done = match action {
            StopAction::Signal(signal) => process::send_signal(leader, *signal),
            StopAction::WriteFifo { paths, bytes } => write_fifo(pid, paths, bytes),
            StopAction::TouchExecutable { path } => touch(pid, path),
        };
        if let Err(error) = done {
            log::warn!("cannot {action:?}: {error}, ignoring");
        }
    }
}

/// The guest's root, by its PID 1. Links are resolved inside of it.
fn root(pid: u32) -> std::io::Result<rustix::fd::OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())?)
}

/// Writes to the first named pipe there is; never waits for a reader.
fn write_fifo(pid: u32, paths: &[PathBuf], bytes: &[u8]) -> std::io::Result<()> {
    let root = root(pid)?;
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for path in paths {
        match mount::open_inside_as(root.as_fd(), path, flags, Mode::empty()) {
            Ok(fifo) if FileType::from_raw_mode(rustix::fs::fstat(&fifo)?.st_mode) == FileType::Fifo => {
                rustix::io::write(&fifo, bytes)?;
                return Ok(());
            }
            Ok(_) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes an executable file, empty where it was not there.
fn touch(pid: u32, path: &Path) -> std::io::Result<()> {
    let root = root(pid)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = mount::open_inside_as(root.as_fd(), path, flags, Mode::from_raw_mode(0o755))?;
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(0o755))?)
}

/// SIGTERM to every process in a cgroup and below.
fn terminate(directory: &Path) {
    let processes = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        if let Ok(pidfd) = process::open_pidfd(pid) {
            let _ = process::send_signal(pidfd.as_fd(), libc::SIGTERM);
        }
    }
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            terminate(&entry.path());
        }
    }
}
