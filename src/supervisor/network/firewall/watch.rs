//! Watches the firewall tables while a machine runs: rules deleted by another program are created again, and
//! so is the machine's interface in firewalld's zone. Called by the event loop. It does not wait for other
//! processes; the intervals grow if a program deletes the tables repeatedly.

use super::{self as firewall, TableState};
use crate::error::Result;
use crate::network::firewall::deletions;
use crate::paths::Paths;
use crate::state::record::Record;
use crate::sys::process::{self, Ended, Side};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The pause before a check of the tables: the other program may not have finished its changes.
const PAUSE: Duration = Duration::from_millis(300);
/// Each supervisor adds a multiple of this, so that they do not start at the same time.
const SPREAD: Duration = Duration::from_millis(40);
/// The pause while another process holds the lock of the tables.
const BUSY: Duration = Duration::from_millis(250);
/// The pause until the child that calls firewalld has ended.
const REAPED: Duration = Duration::from_secs(2);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);
/// The time without changes that resets the pause.
const CALM: Duration = Duration::from_secs(60);

/// The watch of one supervisor.
#[derive(Debug)]
pub(crate) struct FirewallWatch {
    socket: OwnedFd,
    due: Option<Instant>,
    /// Whether firewalld has been reloaded since the interface was added to its zone.
    is_unbound: bool,
    /// The time to add it again.
    bind_at: Option<Instant>,
    /// The child that adds the interface.
    binding: Option<OwnedFd>,
    pause: Duration,
    repaired: Option<Instant>,
}

impl FirewallWatch {
    /// Begins to watch. `None` if the machine has no part in the tables. The first check follows soon:
    /// between the acts of the supervisor the tables are not watched.
    pub(crate) fn watch(record: &Record) -> Option<Self> {
        // Forwarded ports follow when the guest has an address.
        if record.part().is_empty() && record.forwarding.is_none() {
            return None;
        }
        let socket = deletions::subscribe();
        let socket =
            socket.inspect_err(|error| log::warn!("cannot watch the firewall: {error}, ignoring")).ok()?;
        let mut watch = Self {
            socket,
            due: None,
            is_unbound: false,
            bind_at: None,
            binding: None,
            pause: PAUSE,
            repaired: None,
        };
        watch.look_soon();
        Some(watch)
    }

    /// Returns the socket, for epoll.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads notifications.
    pub(crate) fn read(&mut self) {
        let lost = deletions::read(&self.socket);
        if lost.own {
            self.look_soon();
        }
        if lost.firewalld {
            self.is_unbound = true;
            self.bind_at.get_or_insert_with(|| Instant::now() + PAUSE);
        }
    }

    fn look_soon(&mut self) {
        let spread = SPREAD * (std::process::id() % 16);
        self.due.get_or_insert_with(|| Instant::now() + self.pause + spread);
    }

    /// Returns the time until the next check. `None` if there is none.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let next = [self.due, self.bind_at].into_iter().flatten().min();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Adds the interface to firewalld's zone again, since firewalld loses it with a reload. A child does so:
    /// the loop does not wait for firewalld.
    fn bind(&mut self, record: &Record) {
        let is_busy = self.binding.as_ref().is_some_and(|child| process::has_ended(child.as_fd()).is_none());
        self.bind_at = is_busy.then(|| Instant::now() + REAPED);
        if is_busy {
            return;
        }
        self.binding = None;
        if !std::mem::take(&mut self.is_unbound) {
            return;
        }
        match process::clone(0, None) {
            Ok(Side::Child) => {
                // It holds the locks of the machine.
                process::die_with_parent();
                firewall::bind_again(record);
                process::exit_now(0)
            }
            Ok(Side::Parent(child)) => {
                self.binding = Some(child.pidfd);
                self.bind_at = Some(Instant::now() + REAPED);
            }
            Err(error) => log::warn!("cannot call firewalld: {error}, ignoring"),
        }
    }

    /// Ends the child that calls firewalld.
    pub(crate) fn end(&mut self) {
        process::kill_child(self.binding.take());
    }

    /// Checks the tables if that is due, and repairs them.
    pub(crate) fn look(&mut self, paths: &Paths, record: &Record) {
        if self.bind_at.is_some_and(|at| at <= Instant::now()) {
            self.bind(record);
        }
        if self.due.take_if(|due| *due <= Instant::now()).is_none() {
            return;
        }
        match repair(paths, record) {
            Some(TableState::Complete) => {
                if self.repaired.is_none_or(|repaired| repaired.elapsed() > CALM) {
                    self.pause = PAUSE;
                }
            }
            Some(TableState::Busy) => self.due = Some(Instant::now() + BUSY),
            Some(TableState::Recreated) => {
                log::warn!(
                    "another program has deleted rules of the firewall table 'inet coracle': created it again"
                );
                self.slow_down();
            }
            None => {
                self.slow_down();
                self.due = Some(Instant::now() + self.pause);
            }
        }
    }

    fn slow_down(&mut self) {
        self.repaired = Some(Instant::now());
        self.pause = (self.pause * 2).min(LONGEST);
    }
}

/// Creates the tables again if a part of the machine is missing, in a child: its memory is freed at its end.
/// If the guest has used up the tasks of the unit (`TasksMax=`), this process does it. `None` after an error.
fn repair(paths: &Paths, record: &Record) -> Option<TableState> {
    match process::clone(0, None) {
        Ok(Side::Child) => {
            let repaired = report(firewall::repair(paths, record));
            process::exit_now(repaired.map_or(FAILED, |repaired| repaired as i32))
        }
        Ok(Side::Parent(child)) => match process::wait(child.pidfd.as_fd()) {
            Ok(Ended::Exited(status)) => ALL.into_iter().find(|repaired| *repaired as i32 == status),
            Ok(Ended::Killed(_)) => None,
            Err(error) => report(Err(error)),
        },
        Err(_) => report(firewall::repair(paths, record)),
    }
}

const ALL: [TableState; 3] = [TableState::Complete, TableState::Busy, TableState::Recreated];

/// The exit status of a child after a logged error.
const FAILED: i32 = 3;

fn report(repaired: Result<TableState>) -> Option<TableState> {
    repaired.inspect_err(|error| log::warn!("{error}, trying again")).ok()
}
