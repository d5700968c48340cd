//! The time limit of a command: SIGTERM, and SIGKILL if it has not ended some time after. Called by the loop of
//! `forward`.

use rustix::event::Timespec;
use std::time::{Duration, Instant};

/// The exit status of a command that has exceeded its time limit, that of timeout(1).
pub(crate) const TIMEOUT_STATUS: u8 = 124;
/// The time between SIGTERM and SIGKILL.
const AFTER_TERM: Duration = Duration::from_secs(10);

/// The time limit of a command.
#[derive(Debug)]
pub(crate) struct TimeLimit {
    /// The time of the next signal. `None` after the last one.
    next: Option<Instant>,
    is_exceeded: bool,
}

impl TimeLimit {
    /// Starts the time.
    pub(super) fn new(limit: Duration) -> Self {
        Self { next: Instant::now().checked_add(limit), is_exceeded: false }
    }

    /// Returns the time until the next signal.
    pub(super) fn left(&self) -> Timespec {
        let left = self.next.map(|next| next.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        left.unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 })
    }

    /// Returns whether a signal is due.
    pub(super) fn is_due(&self) -> bool {
        self.next.is_some_and(|next| next <= Instant::now())
    }

    /// Returns the signal that is due, once.
    pub(super) fn due(&mut self) -> Option<i32> {
        if !self.is_due() {
            return None;
        }
        let is_first = !std::mem::replace(&mut self.is_exceeded, true);
        self.next = is_first.then(|| Instant::now() + AFTER_TERM);
        Some(if is_first { libc::SIGTERM } else { libc::SIGKILL })
    }

    /// Returns whether the time is over.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_exceeded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_signal_kills() {
        let mut limit = TimeLimit::new(Duration::ZERO);
        assert!(limit.is_due() && !limit.is_exceeded());
        assert_eq!((limit.due(), limit.due()), (Some(libc::SIGTERM), None));
        assert!(limit.is_exceeded() && limit.left().tv_sec > 0);
        limit.next = Some(Instant::now());
        assert_eq!((limit.due(), limit.due()), (Some(libc::SIGKILL), None));
    }
}
