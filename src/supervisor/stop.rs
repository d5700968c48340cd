//! An orderly stop and its escalation: a request to the init first, then SIGTERM to every process of the
//! guest, then SIGKILL to its PID 1, which ends all others. Called by the event loop.
//!
//! A child process opens files of the guest: a FUSE server of the guest can delay each open(2) for ever.

mod requests;

pub(crate) use requests::GuestAccess;

use crate::host::cgroup;
use crate::machine::contract::Contract;
use crate::machine::init::{Init, REAL_TIME_SIGNALS};
use crate::plan::init::{StopAction, orderly_reboot, orderly_stop};
use crate::sys::process::Side;
use crate::sys::{descriptor, process, pseudo_file};
use requests::Requests;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// The time between SIGTERM and SIGKILL.
const AFTER_TERM: Duration = Duration::from_secs(5);

/// The stage of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Requested,
    Terminated,
    Killed,
}

/// How a guest is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopMode {
    /// Not at all.
    Kill,
    /// By this signal, else in the way of its init. systemd-nspawn(1) halts systemd and unknown inits.
    Request {
        /// The signal of the definition.
        signal: Option<i32>,
        /// The program whose requests are sent.
        contract: Contract,
    },
}

impl StopMode {
    fn actions(self, init: Init) -> Vec<StopAction> {
        match (self, init) {
            (Self::Kill, _) => Vec::new(),
            (Self::Request { signal: None, contract: Contract::Nspawn }, Init::Systemd | Init::Unknown) => {
                vec![StopAction::Signal(HALT)]
            }
            (Self::Request { signal, .. }, init) => orderly_stop(init, signal),
        }
    }
}

/// The signal for halt.target of systemd(1), SIGRTMIN+3.
const HALT: i32 = *REAL_TIME_SIGNALS.start() + 3;

/// A stop in progress.
#[derive(Debug)]
pub(crate) struct Stop {
    stage: Stage,
    /// Whether a kill was requested.
    is_forced: bool,
    deadline: Option<Instant>,
    /// How the guest is asked.
    mode: StopMode,
    /// The request.
    actions: Vec<StopAction>,
    /// The time to repeat the request: an init that is not up yet handles neither signals nor pipes. The
    /// request is not repeated after it was handled: systemd would restart its stop jobs.
    again: Option<Instant>,
    /// The child that opens files of the guest.
    request_child: RequestChild,
}

/// The time until an unhandled request is repeated.
const AGAIN: Duration = Duration::from_secs(1);

impl Stop {
    /// Sends the request to the guest. A command without a stop signal is killed, as by systemd-nspawn(1),
    /// `--kill-signal=`.
    pub(crate) fn begin(
        init: Init,
        mode: StopMode,
        limit: Option<Duration>,
        leader: BorrowedFd<'_>,
        guest: GuestAccess,
    ) -> Self {
        let mut stop = Self {
            stage: Stage::Requested,
            is_forced: false,
            deadline: limit.and_then(|limit| Instant::now().checked_add(limit)),
            mode,
            actions: mode.actions(init),
            again: None,
            request_child: RequestChild::default(),
        };
        if mode == StopMode::Kill {
            stop.kill(leader);
        } else {
            stop.request(leader, guest);
        }
        stop
    }

    fn request(&mut self, leader: BorrowedFd<'_>, guest: GuestAccess) {
        let done = self.request_child.act(&self.actions, leader, guest);
        self.again = (done != Delivery::Complete).then(|| Instant::now() + AGAIN);
    }

    /// Returns whether the request is due to be repeated.
    pub(crate) fn is_repeated(&self) -> bool {
        self.stage == Stage::Requested && self.again.is_some_and(|when| when <= Instant::now())
    }

    /// Uses the request of this init from now on.
    pub(crate) fn set_init(&mut self, init: Init) {
        self.actions = self.mode.actions(init);
    }

    /// Notes the guest's `STOPPING=1`: the request is not repeated.
    pub(crate) fn acknowledge(&mut self) {
        self.again = None;
    }

    /// Returns the time until the next action. `None` if there is none.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        if self.stage == Stage::Killed {
            return None;
        }
        let again = self.again.filter(|_| self.stage == Stage::Requested);
        let next = self.deadline.into_iter().chain(again).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Returns whether the guest was killed.
    pub(crate) fn was_killed(&self) -> bool {
        self.stage == Stage::Killed
    }

    /// Returns whether a kill was requested, not the end of a timeout.
    pub(crate) fn is_forced(&self) -> bool {
        self.is_forced
    }

    /// Makes the next call of [`Self::escalate`] kill the guest, as requested.
    pub(crate) fn kill_now(&mut self) {
        self.is_forced = true;
        if self.stage == Stage::Requested {
            self.stage = Stage::Terminated;
        }
        self.deadline = Some(Instant::now());
    }

    /// Enters the next stage if it is due.
    pub(crate) fn escalate(&mut self, leader: BorrowedFd<'_>, guest: GuestAccess, cgroup: Option<&Path>) {
        let now = Instant::now();
        if self.stage == Stage::Requested && self.again.is_some_and(|when| when <= now) {
            match self.request_child.outcome() {
                Some(Delivery::Complete) => self.again = None,
                // The request cannot be delivered: the next stage follows at once.
                Some(Delivery::Refused) => {
                    log::warn!("cannot use the files of the guest's init: they do not belong to the guest");
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
                if let Some(payload) = cgroup.map(|cgroup| cgroup.join(cgroup::PAYLOAD)) {
                    cgroup::for_each_process(&payload, &mut |_, process| {
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

/// Requests an orderly reboot of the guest.
pub(crate) fn request_reboot(
    request_child: &mut RequestChild,
    init: Init,
    leader: BorrowedFd<'_>,
    guest: GuestAccess,
) {
    if request_child.act(&orderly_reboot(init), leader, guest) == Delivery::Failed {
        log::warn!("cannot request a reboot: the guest's init is not up");
    }
}

/// The delivery of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Complete,
    Failed,
    /// The guest's files cannot be used, now or later.
    Refused,
    /// A child is delivering it.
    Started,
}

/// The child process that delivers a request by files of the guest, at most one at a time.
#[derive(Debug, Default)]
pub(crate) struct RequestChild(Option<OwnedFd>);

impl RequestChild {
    /// Carries out the actions, in a child if they use files of the guest.
    fn act(&mut self, actions: &[StopAction], leader: BorrowedFd<'_>, guest: GuestAccess) -> Delivery {
        if actions.iter().all(|action| matches!(action, StopAction::Signal(_))) {
            return act(actions, leader, guest, None);
        }
        if let Some(child) = self.0.take_if(|child| process::has_ended(child.as_fd()).is_none()) {
            // It is blocked in a file system of the guest, and ends with that at the latest.
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
                log::warn!("cannot send the request to the guest: {error}, ignoring");
                Delivery::Failed
            }
        }
    }

    /// Ends the child.
    pub(super) fn end(&mut self) {
        process::kill_child(self.0.take());
    }

    /// Returns the result of the child. `None` if it is still running, or there is none.
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

/// Delivers a request in the child, which must not hold locks of the supervisor while it waits.
fn close_and_act(actions: &[StopAction], leader: BorrowedFd<'_>, guest: GuestAccess) -> Delivery {
    descriptor::close_from(3, leader);
    match Requests::as_root_of(guest) {
        Ok(requests) => act(actions, leader, guest, Some(&requests)),
        Err(_) => Delivery::Refused,
    }
}

fn act(
    actions: &[StopAction],
    leader: BorrowedFd<'_>,
    guest: GuestAccess,
    requests: Option<&Requests>,
) -> Delivery {
    // Checked before a signal is sent: the init may install its handlers at any moment, and never removes
    // them.
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

/// Returns whether PID 1 receives one of the signals, or there is none to send. The kernel drops signals that
/// the first process of a pid namespace neither handles nor blocks for a signalfd (pid_namespaces(7)).
fn receives_signals(pid: u32, actions: &[StopAction]) -> bool {
    let signals = actions.iter().fold(0, |signals, action| match action {
        StopAction::Signal(signal) => signals | bit(*signal),
        StopAction::WriteFifo { .. } | StopAction::SetMode { .. } => signals,
    });
    let status = pseudo_file::read(format!("/proc/{pid}/status")).unwrap_or_default();
    signals == 0 || signals & handled_signals(&status) != 0
}

fn bit(signal: i32) -> u64 {
    u32::try_from(signal - 1).ok().and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(0)
}

/// Returns the signals that a process handles or blocks, from its status file in procfs.
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
    fn handled_and_blocked_signals_are_received() {
        let status =
            "Name:\tinit\nSigBlk:\t0000002000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004001\n";
        let handled = handled_signals(status);
        for (signal, expected) in [(38, true), (15, true), (1, true), (13, false), (39, false), (64, false)] {
            assert_eq!(handled & bit(signal) != 0, expected, "{signal}");
        }
        assert_eq!((bit(0), bit(-1), bit(64)), (0, 0, 1 << 63));
    }

    #[test]
    fn systemd_nspawn_halts_systemd_and_unknown_inits() {
        let mode = |contract| StopMode::Request { signal: None, contract };
        assert_eq!(mode(Contract::Nspawn).actions(Init::Systemd), [StopAction::Signal(37)]);
        assert_eq!(mode(Contract::Nspawn).actions(Init::Unknown), [StopAction::Signal(37)]);
        assert_eq!(
            mode(Contract::Nspawn).actions(Init::Busybox),
            mode(Contract::Coracle).actions(Init::Busybox)
        );
        assert_eq!(mode(Contract::Coracle).actions(Init::Systemd), [StopAction::Signal(38)]);
        let given = StopMode::Request { signal: Some(15), contract: Contract::Nspawn };
        assert_eq!(given.actions(Init::Systemd), [StopAction::Signal(15)]);
    }

    #[test]
    fn a_request_without_signals_is_received_and_a_missing_process_receives_none() {
        assert!(receives_signals(0, &[]));
        assert!(!receives_signals(0, &[StopAction::Signal(38)]));
    }
}
