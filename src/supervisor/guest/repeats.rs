//! Repeated messages of a guest. A repeated message is written a few times; further ones are counted and
//! written as one entry with the count, at doubling intervals. Called by `syslog`; the memory is bounded.

use std::time::{Duration, Instant};

/// The number of remembered messages. The least recently seen one is forgotten first.
const REMEMBERED: usize = 32;
/// The number of times a message is written before it counts as repeated.
const WRITTEN: u32 = 3;
/// A message not seen for this long is not a repetition.
const QUIET: Duration = Duration::from_secs(60);
/// The first and the longest interval between two counts.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);

/// The recent messages of a guest.
#[derive(Debug, Default)]
pub(crate) struct Repeats(Vec<RecentMessage>);

#[derive(Debug)]
struct RecentMessage {
    hash: u64,
    written: u32,
    counted: u32,
    seen: Instant,
    since: Instant,
    interval: Duration,
}

/// The decision about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogDecision {
    /// It is written.
    Write,
    /// It is only counted.
    Omit,
    /// It is written with the number of messages since the last entry, this one included.
    Count(u32),
}

impl Repeats {
    /// Decides about a message by the hash of its compared parts.
    pub(crate) fn judge(&mut self, hash: u64, now: Instant) -> LogDecision {
        if let Some(known) = self.0.iter_mut().find(|known| known.hash == hash) {
            return known.judge(now);
        }
        if self.0.len() >= REMEMBERED
            && let Some(oldest) = (0..self.0.len()).min_by_key(|at| self.0[*at].seen)
        {
            self.0.swap_remove(oldest);
        }
        self.0.push(RecentMessage { hash, written: 1, counted: 0, seen: now, since: now, interval: FIRST });
        LogDecision::Write
    }
}

impl RecentMessage {
    fn judge(&mut self, now: Instant) -> LogDecision {
        let is_quiet = now.duration_since(self.seen) >= QUIET;
        self.seen = now;
        if is_quiet {
            (self.written, self.since, self.interval) = (0, now, FIRST);
        }
        if self.written < WRITTEN && self.counted == 0 {
            (self.written, self.since) = (self.written + 1, now);
            return LogDecision::Write;
        }
        self.counted = self.counted.saturating_add(1);
        if !is_quiet && now.duration_since(self.since) < self.interval {
            return LogDecision::Omit;
        }
        self.since = now;
        self.interval = if is_quiet { FIRST } else { (self.interval * 2).min(LONGEST) };
        LogDecision::Count(std::mem::take(&mut self.counted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_repeatedly_failing_gettys_write_few_lines() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let (mut lines, mut counted) = (0, 0);
        for second in (0..86_400).step_by(10) {
            for terminal in 1..=6 {
                match repeats.judge(terminal, start + Duration::from_secs(second)) {
                    LogDecision::Omit => {}
                    LogDecision::Write => (lines, counted) = (lines + 1, counted + 1),
                    LogDecision::Count(count) => (lines, counted) = (lines + 1, counted + count),
                }
            }
        }
        assert!(lines < 6 * 40, "{lines} lines in a day");
        // At most the messages of the last hour are not written yet.
        assert!(counted >= 6 * (8640 - 360), "{counted}");
    }

    #[test]
    fn rare_messages_are_all_written() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for minute in 0..100 {
            assert_eq!(repeats.judge(1, start + QUIET * minute), LogDecision::Write);
        }
    }

    #[test]
    fn a_burst_is_counted_with_the_next_message() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let verdicts: Vec<LogDecision> = (0..10).map(|_| repeats.judge(1, start)).collect();
        assert_eq!(verdicts[..3], [LogDecision::Write; 3]);
        assert_eq!(verdicts[3..], [LogDecision::Omit; 7]);
        assert_eq!(repeats.judge(1, start + QUIET), LogDecision::Count(8));
        assert_eq!(repeats.judge(1, start + QUIET * 2), LogDecision::Write);
    }

    #[test]
    fn the_memory_is_bounded() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        for hash in 0..1000 {
            assert_eq!(repeats.judge(hash, now), LogDecision::Write);
        }
        assert_eq!(repeats.0.len(), REMEMBERED);
    }
}
