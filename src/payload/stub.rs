//! The stub PID 1 of `--as-pid2`, which reaps processes, handles the signals of an init, and exits with the
//! status of PID 2, and the one of build sessions, which only holds the machine. Called by `init_process`.

use crate::error::{Context, Result};
use crate::plan::step::StubSettings;
use crate::sys::process::{self, Side, SignalSet};
use crate::sys::terminal;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use rustix::system::{RebootCommand, reboot};
use std::time::{Duration, Instant};

/// The lowest real-time signal in the numbering of systemd(1).
const SIGRTMIN: i32 = 34;
/// The signals that power off (systemd-nspawn(1), `--as-pid2`): halt.target, poweroff.target, and both at once.
const POWER_OFF: [i32; 4] = [SIGRTMIN + 3, SIGRTMIN + 4, SIGRTMIN + 13, SIGRTMIN + 14];
/// The signals that reboot: ctrl-alt-del, reboot.target, kexec.target, and both at once.
const REBOOT: [i32; 5] = [libc::SIGINT, SIGRTMIN + 5, SIGRTMIN + 6, SIGRTMIN + 15, SIGRTMIN + 16];
/// All signals that the stub receives. All others are ignored, as the kernel does for a PID 1 without handlers.
const SIGNALS: SignalSet = SignalSet::of(&[
    libc::SIGCHLD,
    POWER_OFF[0],
    POWER_OFF[1],
    POWER_OFF[2],
    POWER_OFF[3],
    REBOOT[0],
    REBOOT[1],
    REBOOT[2],
    REBOOT[3],
    REBOOT[4],
]);
/// The time for PID 2 to end after a request.
const PATIENCE: Duration = Duration::from_secs(90);
/// The exit status for a PID 2 that was killed, of systemd-nspawn(1).
const KILLED: i32 = 255;

/// Forks: the child returns and becomes the payload, the parent stays as PID 1 until it ends.
///
/// # Errors
/// Any error of clone3(2).
pub(crate) fn fork(settings: &StubSettings) -> Result<()> {
    SIGNALS.set_as_mask();
    if settings.has_console {
        // PID 2 takes it: a terminal controls one session.
        terminal::give_up_control(rustix::stdio::stdin());
    }
    match process::clone(0, None)? {
        Side::Child => {
            SignalSet::of(&[]).set_as_mask();
            rustix::process::setsid().context(|| "cannot create a session")?;
            if settings.has_console {
                terminal::take_control(rustix::stdio::stdin()).context(|| "cannot control the console")?;
            }
            process::die_with_parent();
            Ok(())
        }
        Side::Parent(child) => {
            // The channel too: its end notifies the supervisor of the payload's exec.
            crate::sys::descriptor::close_from(3, child.pidfd.as_fd());
            process::replace_title(c"(sd-stubinit)", &settings.environment);
            watch(child.pid, child.pidfd.as_fd(), settings.shows_signals)
        }
    }
}

/// Holds the machine without a payload: reaps processes until SIGTERM. Returns only on failure.
///
/// # Errors
/// A `/dev/null` that cannot be opened.
pub(crate) fn hold(settings: &StubSettings) -> Result<()> {
    const RECEIVED: SignalSet = SignalSet::of(&[libc::SIGCHLD, libc::SIGTERM]);
    RECEIVED.set_as_mask();
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty()).context(|| "cannot open '/dev/null'")?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .context(|| "cannot set a standard stream")?;
    if settings.leaves_root {
        leave_root().context(|| format!("cannot change the root directory to '{EMPTY}'"))?;
    }
    // The channel too: its end notifies the supervisor that the machine is held.
    crate::sys::descriptor::close_from(3, null.as_fd());
    process::replace_title(c"(coracle-hold)", &settings.environment);
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        if RECEIVED.wait(None) == Some(libc::SIGTERM) {
            process::exit_now(0);
        }
    }
}

/// A directory of another file system than the root, in which programs cannot create files.
const EMPTY: &str = "/proc/self/fdinfo";

/// Leaves the root of the session: lsof(8) would show this process as a user of its files. Commands enter the mount
/// namespace, whose root stays.
fn leave_root() -> rustix::io::Result<()> {
    rustix::process::chdir(EMPTY)?;
    rustix::process::chroot(".")
}

/// A request to the stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    PowerOff,
    Reboot,
}

impl Request {
    /// Returns the request of a signal.
    fn of(signal: i32) -> Option<Self> {
        match signal {
            signal if POWER_OFF.contains(&signal) => Some(Self::PowerOff),
            signal if REBOOT.contains(&signal) => Some(Self::Reboot),
            _ => None,
        }
    }
}

/// Reaps children and handles signals until the payload has ended.
fn watch(pid: Pid, payload: BorrowedFd<'_>, shows_signals: bool) -> ! {
    let mut request = None;
    loop {
        while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
            if ended == pid {
                end(request.map(|(request, _)| request), Some(status), shows_signals);
            }
        }
        let left = request.map(|(_, until): (_, Instant)| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            end(request.map(|(request, _)| request), None, shows_signals);
        }
        let received = SIGNALS.wait(left).and_then(Request::of);
        if let (Some(received), None) = (received, request) {
            // Shells ignore SIGTERM and end at SIGHUP, and a stopped process handles neither.
            for signal in [libc::SIGTERM, libc::SIGCONT, libc::SIGHUP] {
                let _ = process::send_signal(payload, signal);
            }
            request = Some((received, Instant::now() + PATIENCE));
        }
    }
}

/// Ends this process, and with it the machine: by reboot(2) if that was requested.
fn end(request: Option<Request>, payload: Option<WaitStatus>, shows_signals: bool) -> ! {
    let _ = match request {
        Some(Request::Reboot) => reboot(RebootCommand::Restart),
        Some(Request::PowerOff) => reboot(RebootCommand::PowerOff),
        None => Ok(()),
    };
    let exited = payload.and_then(WaitStatus::exit_status);
    let killed = payload.and_then(WaitStatus::terminating_signal).filter(|_| shows_signals);
    process::exit_now(match (request, exited, killed) {
        // reboot(2) has failed.
        (Some(Request::Reboot), ..) => 1,
        (_, Some(status), _) => status,
        (_, None, Some(signal)) => 128 + signal,
        (_, None, None) => KILLED,
    })
}
