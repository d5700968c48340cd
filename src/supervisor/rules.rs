//! Watches the tables of the firewall while a machine runs: what another program deletes from them is created again.
//! Called by the event loop. It waits for no other process, and a program that deletes them again and again is
//! answered in growing intervals.

use super::firewall::{self, Mended};
use crate::error::Result;
use crate::host::nftables;
use crate::host::state::Record;
use crate::paths::Paths;
use crate::sys::process::{self, Ended, Side};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The pause before a look at the tables: the program that changed them may not be finished.
const PAUSE: Duration = Duration::from_millis(300);
/// Each supervisor adds a part of this, so that one of them is the first.
const SPREAD: Duration = Duration::from_millis(40);
/// The pause while another process works on the tables.
const BUSY: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);
/// Tables that stayed whole for this long reset the pause.
const CALM: Duration = Duration::from_secs(60);

/// The watch of one supervisor.
#[derive(Debug)]
pub struct Rules {
    socket: OwnedFd,
    due: Option<Instant>,
    pause: Duration,
    mended: Option<Instant>,
}

impl Rules {
    /// Begins to watch, where the machine has a part in the tables. The first look comes soon: nothing watched between
    /// the acts of the supervisor.
    pub fn watch(record: &Record) -> Option<Self> {
        if record.part().is_empty() {
            return None;
        }
        let socket = nftables::subscribe();
        let socket =
            socket.inspect_err(|error| log::warn!("cannot watch the firewall: {error}, ignoring")).ok()?;
        let mut rules = Self { socket, due: None, pause: PAUSE, mended: None };
        rules.look_soon();
        Some(rules)
    }

    /// The socket, to be watched.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads notifications.
    pub fn read(&mut self) {
        if nftables::has_lost(&self.socket) {
            self.look_soon();
        }
    }

    fn look_soon(&mut self) {
        let spread = SPREAD * (std::process::id() % 16);
        self.due.get_or_insert_with(|| Instant::now() + self.pause + spread);
    }

    /// The time until the next look.
    pub fn time_left(&self) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Looks at the tables when it is time, and mends them.
    pub fn look(&mut self, paths: &Paths, record: &Record) {
        if self.time_left() != Some(Duration::ZERO) {
            return;
        }
        self.due = None;
        match mend(paths, record) {
            Some(Mended::Whole) => {
                if self.mended.is_none_or(|mended| mended.elapsed() > CALM) {
                    self.pause = PAUSE;
                }
            }
            Some(Mended::Busy) => self.due = Some(Instant::now() + BUSY),
            Some(Mended::Again) => {
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
        self.mended = Some(Instant::now());
        self.pause = (self.pause * 2).min(LONGEST);
    }
}

/// Creates the tables again where a part of the machine is missing, in a child: its memory goes with it. A guest that
/// has all tasks of the unit leaves none for a child; then this process does it. `None` after an error.
fn mend(paths: &Paths, record: &Record) -> Option<Mended> {
    match process::clone(0, None) {
        Ok(Side::Child) => {
            let mended = report(firewall::mend(paths, record));
            process::exit_now(mended.map_or(FAILED, |mended| mended as i32))
        }
        Ok(Side::Parent(child)) => match process::wait(child.pidfd.as_fd()) {
            Ok(Ended::Exited(status)) => ALL.into_iter().find(|mended| *mended as i32 == status),
            Ok(Ended::Killed(_)) => None,
            Err(error) => report(Err(error)),
        },
        Err(_) => report(firewall::mend(paths, record)),
    }
}

const ALL: [Mended; 3] = [Mended::Whole, Mended::Busy, Mended::Again];

/// The exit status of a child after an error, which it has logged.
const FAILED: i32 = 3;

fn report(mended: Result<Mended>) -> Option<Mended> {
    mended.inspect_err(|error| log::warn!("{error}, trying again")).ok()
}
