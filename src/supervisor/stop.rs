//! An orderly stop and what follows when it takes too long: the init's own way first, then SIGTERM
//! to every process of the guest, then SIGKILL to its PID 1, which takes all others along.
//!
//! Files of the guest are opened by a child process: a FUSE server of the guest can prolong each open(2) for ever.

mod requests;

pub use requests::Target;

use crate::host::cgroup;
use crate::machine::init::Init;
use crate::plan::init::{StopAction, orderly_reboot, orderly_stop};
use crate::sys::process::Side;
use crate::sys::{descriptor, process};
use requests::Requests;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the guest's processes have between SIGTERM and SIGKILL.
const AFTER_TERM: Duration = Duration::from_secs(5);

/// How far a stop has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Requested,
    Terminated,
    Killed,
}

/// A stop under way.
#[derive(Debug)]
pub struct Stop {
    stage: Stage,
    deadline: Option<Instant>,
    /// The signal of the definition.
    signal: Option<i32>,
    /// What to ask.
    actions: Vec<StopAction>,
    /// When to ask again: an init that is not up yet hears neither signal nor pipe, whoever chose the signal. One
    /// that heard is not asked again: systemd would begin anew with what it is waiting for.
    again: Option<Instant>,
    /// The child that opens files of the guest.
    request_child: RequestChild,
}

/// How long an init has to show that it heard us before it is asked again.
const AGAIN: Duration = Duration::from_secs(1);

impl Stop {
    /// Asks the guest. A command without a signal of its own to stop it is killed, as
    /// systemd-nspawn(1), `--kill-signal=`, does.
    pub fn begin(
        init: Init,
        is_boot: bool,
        signal: Option<i32>,
        limit: Option<Duration>,
        leader: BorrowedFd<'_>,
        guest: Target,
    ) -> Self {
        let mut stop = Self {
            stage: Stage::Requested,
            deadline: limit.and_then(|limit| Instant::now().checked_add(limit)),
            signal,
            actions: orderly_stop(init, signal),
            again: None,
            request_child: RequestChild::default(),
        };
        if !is_boot && signal.is_none() {
            stop.kill(leader);
        } else {
            stop.request(leader, guest);
        }
        stop
    }

    fn request(&mut self, leader: BorrowedFd<'_>, guest: Target) {
        let done = self.request_child.act(&self.actions, leader, guest);
        self.again = (done != Delivery::Complete).then(|| Instant::now() + AGAIN);
    }

    /// Whether the guest is asked again now.
    pub fn is_repeated(&self) -> bool {
        self.stage == Stage::Requested && self.again.is_some_and(|when| when <= Instant::now())
    }

    /// Asks as this init is asked from now on.
    pub fn set_init(&mut self, init: Init) {
        self.actions = orderly_stop(init, self.signal);
    }

    /// The guest said that it goes down.
    pub fn acknowledge(&mut self) {
        self.again = None;
    }

    /// How long until something is to be done; nothing where nothing is.
    pub fn time_left(&self) -> Option<Duration> {
        if self.stage == Stage::Killed {
            return None;
        }
        let again = self.again.filter(|_| self.stage == Stage::Requested);
        let next = self.deadline.into_iter().chain(again).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Whether the guest did not stop by itself.
    pub fn was_killed(&self) -> bool {
        self.stage == Stage::Killed
    }

    /// The next call of [`Self::escalate`] kills.
    pub fn kill_now(&mut self) {
        if self.stage == Stage::Requested {
            self.stage = Stage::Terminated;
        }
        self.deadline = Some(Instant::now());
    }

    /// Goes to the next stage where its time has come.
    pub fn escalate(&mut self, leader: BorrowedFd<'_>, guest: Target, cgroup: Option<&Path>) {
        let now = Instant::now();
        if self.stage == Stage::Requested && self.again.is_some_and(|when| when <= now) {
            match self.request_child.outcome() {
                Some(Delivery::Complete) => self.again = None,
                // Its own way is not open: the next one is.
                Some(Delivery::Refused) => {
                    log::warn!("the files of the guest's init are not its own, or refused");
                    self.again = None;
                    self.deadline = Some(now);
                }
                _ => self.request(leader, guest),
            }
        }
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        match self.stage {
            Stage::Requested => {
                log::warn!("the guest did not stop in time; terminating its processes");
                if let Some(payload) = cgroup.map(|cgroup| cgroup.join("payload")) {
                    cgroup::for_each_process(&payload, &mut |process| {
                        let _ = process::send_signal(process.as_fd(), libc::SIGTERM);
                    });
                }
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
pub fn request_reboot(request_child: &mut RequestChild, init: Init, leader: BorrowedFd<'_>, guest: Target) {
    if request_child.act(&orderly_reboot(init), leader, guest) == Delivery::Failed {
        log::warn!("the guest cannot be asked to reboot: its init is not up");
    }
}

/// Whether all could be done, and was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Complete,
    Failed,
    /// The guest's files cannot be used, now or later.
    Refused,
    /// A child is at it.
    Started,
}

/// The child process that asks a guest by its files, at most one at a time.
#[derive(Debug, Default)]
pub struct RequestChild(Option<OwnedFd>);

impl RequestChild {
    /// Carries the actions out, in a child if files of the guest are among them.
    fn act(&mut self, actions: &[StopAction], leader: BorrowedFd<'_>, guest: Target) -> Delivery {
        if actions.iter().all(|action| matches!(action, StopAction::Signal(_))) {
            return act(actions, leader, guest, None);
        }
        if let Some(child) = self.0.take_if(|child| process::has_ended(child.as_fd()).is_none()) {
            // It stands in a file system of the guest, and ends with that at the latest.
            let _ = process::send_signal(child.as_fd(), libc::SIGKILL);
            self.0 = Some(child);
            return Delivery::Failed;
        }
        match process::clone(0, None) {
            Ok(Side::Child) => process::exit_now(match close_and_act(actions, leader, guest) {
                Delivery::Complete => 0,
                Delivery::Failed | Delivery::Started => 1,
                Delivery::Refused => 2,
            }),
            Ok(Side::Parent(child)) => {
                self.0 = Some(child.pidfd);
                Delivery::Started
            }
            Err(error) => {
                log::warn!("cannot ask the guest: {error}, ignoring");
                Delivery::Failed
            }
        }
    }

    /// What came of it. `None` if a child is still at it, or none was.
    fn outcome(&mut self) -> Option<Delivery> {
        let ended = process::has_ended(self.0.as_ref()?.as_fd())?;
        self.0 = None;
        Some(match ended {
            process::Ended::Exited(0) => Delivery::Complete,
            process::Ended::Exited(2) => Delivery::Refused,
            _ => Delivery::Failed,
        })
    }
}

/// The child's part: it holds no lock of the supervisor's while it waits.
fn close_and_act(actions: &[StopAction], leader: BorrowedFd<'_>, guest: Target) -> Delivery {
    descriptor::close_from(3, leader);
    match Requests::as_root_of(guest) {
        Ok(requests) => act(actions, leader, guest, Some(&requests)),
        Err(_) => Delivery::Refused,
    }
}

fn act(
    actions: &[StopAction],
    leader: BorrowedFd<'_>,
    guest: Target,
    requests: Option<&Requests>,
) -> Delivery {
    // Looked at before anything is sent: it goes on listening, and may begin at any moment.
    let mut all = if receives_signals(guest.pid, actions) { Delivery::Complete } else { Delivery::Failed };
    for action in actions {
        let done = match (action, requests) {
            (StopAction::Signal(signal), _) => process::send_signal(leader, *signal).is_ok(),
            (_, Some(requests)) => match requests.make(action) {
                Ok(()) => true,
                Err(errno) if requests::is_early(errno) => false,
                Err(_) => return Delivery::Refused,
            },
            (_, None) => false,
        };
        if !done {
            all = Delivery::Failed;
        }
    }
    all
}

/// Whether one of the signals comes to PID 1's notice, or there is none to send. What it neither
/// handles nor holds back, for a signalfd, the kernel drops: it is the first process of its namespace
/// (pid_namespaces(7)).
fn receives_signals(pid: u32, actions: &[StopAction]) -> bool {
    let signals = actions.iter().fold(0, |signals, action| match action {
        StopAction::Signal(signal) => signals | bit(*signal),
        StopAction::WriteFifo { .. } | StopAction::SetMode { .. } => signals,
    });
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    signals == 0 || signals & handled_signals(&status) != 0
}

fn bit(signal: i32) -> u64 {
    u32::try_from(signal - 1).ok().and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(0)
}

/// The signals that a process handles or blocks, from what procfs says of it.
fn handled_signals(status: &str) -> u64 {
    let masks = status.lines().filter_map(|line| {
        let mask = line.strip_prefix("SigBlk:").or_else(|| line.strip_prefix("SigCgt:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    masks.fold(0, |all, mask| all | mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_noticed_where_it_is_handled_or_blocked() {
        let status =
            "Name:\tinit\nSigBlk:\t0000002000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004001\n";
        let handled = handled_signals(status);
        for (signal, expected) in [(38, true), (15, true), (1, true), (13, false), (39, false), (64, false)] {
            assert_eq!(handled & bit(signal) != 0, expected, "{signal}");
        }
        assert_eq!((bit(0), bit(-1), bit(64)), (0, 0, 1 << 63));
    }

    #[test]
    fn nothing_to_send_is_heard_and_nobody_hears_nothing() {
        assert!(receives_signals(0, &[]));
        assert!(!receives_signals(0, &[StopAction::Signal(38)]));
    }
}
