//! The rate limit for messages of the guest, which protects the host's journal from a flood. Used by
//! `console` and `syslog`, each with a limit of its own.

use std::time::{Duration, Instant};

/// The number of messages accepted in [`WINDOW`]: a third of journald's rate for a service.
const BURST: u32 = 3000;
const WINDOW: Duration = Duration::from_secs(10);

/// Counts messages in windows of ten seconds.
#[derive(Debug)]
pub(crate) struct RateLimit {
    since: Instant,
    accepted: u32,
    dropped: u64,
}

impl RateLimit {
    /// Starts the first window.
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), accepted: 0, dropped: 0 }
    }

    /// Returns whether the next message is accepted. The caller calls [`Self::report`] before.
    pub(crate) fn accepts(&mut self) -> bool {
        if self.since.elapsed() > WINDOW {
            (self.since, self.accepted) = (Instant::now(), 0);
        }
        let is_accepted = self.accepted < BURST;
        if is_accepted {
            self.accepted += 1;
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
        is_accepted
    }

    /// Returns the number of dropped messages once, after their window. `None` if there are none.
    pub(crate) fn report(&mut self) -> Option<u64> {
        if self.time_left()?.is_zero() { self.finish() } else { None }
    }

    /// Returns the number of dropped messages now. `None` if there are none.
    pub(crate) fn finish(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.dropped)).filter(|dropped| *dropped > 0)
    }

    /// Returns the time until the next report. `None` if no message was dropped.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        (self.dropped > 0).then(|| WINDOW.saturating_sub(self.since.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_has_a_burst_and_one_report() {
        let mut limit = RateLimit::new();
        let accepted = (0..10_000).filter(|_| limit.accepts()).count();
        assert_eq!((accepted, limit.report()), (3000, None));
        assert!(limit.time_left().is_some_and(|left| left <= WINDOW));
        limit.since = Instant::now().checked_sub(WINDOW + Duration::from_millis(1)).unwrap();
        assert_eq!(limit.time_left(), Some(Duration::ZERO));
        assert_eq!((limit.report(), limit.report(), limit.time_left()), (Some(7000), None, None));
        assert!(limit.accepts());
    }

    #[test]
    fn the_end_reports_remaining_messages() {
        let mut limit = RateLimit::new();
        assert_eq!(limit.finish(), None);
        assert_eq!((0..3001).filter(|_| limit.accepts()).count(), 3000);
        assert_eq!((limit.finish(), limit.finish()), (Some(1), None));
    }
}
