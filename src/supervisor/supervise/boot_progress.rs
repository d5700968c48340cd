//! The start of a guest: its progress, the unit it waits for, and its timeout. Part of the loop.
//!
//! Progress is a new text, without digits: systemd prints the name and the time of an unchanged job again and
//! again. A guest can print new texts for ever; the start timeout bounds that.

use super::Loop;
use crate::state::record::Phase;
use crate::supervisor::guest::console::readable;
use sd_notify::NotifyState;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The number of remembered texts.
const REMEMBERED: usize = 64;
/// The compared part of a line, bytes.
const LINE: usize = 512;

/// The pending start of a guest.
#[derive(Debug, Default)]
pub(super) struct BootProgress {
    deadline: Option<Instant>,
    seen: VecDeque<u64>,
    line: Vec<u8>,
    waits_for: Option<String>,
}

impl BootProgress {
    /// Creates the state of a start that began at `started`, microseconds since the epoch, with a timeout.
    pub(super) fn new(started: u64, limit: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let elapsed = now.saturating_sub(Duration::from_micros(started));
        Self { deadline: Instant::now().checked_add(limit.saturating_sub(elapsed)), ..Self::default() }
    }

    /// Returns the remaining time. `None` if there is no limit.
    pub(super) fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Adds output of the console. Returns whether a line of it is new.
    pub(super) fn is_new_output(&mut self, bytes: &[u8]) -> bool {
        let mut is_new = false;
        for byte in bytes {
            // systemd rewrites the line of a running job, with a carriage return.
            if matches!(byte, b'\n' | b'\r') {
                let line = readable(&std::mem::take(&mut self.line));
                is_new |= self.is_new_text(&line);
            } else if self.line.len() < LINE {
                self.line.push(*byte);
            }
        }
        is_new
    }

    /// Adds a text. Returns whether it is new.
    pub(super) fn is_new_text(&mut self, text: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        // Without digits, and without the moving stars of a running job.
        text.chars().filter(|c| c.is_alphabetic()).for_each(|c| c.hash(&mut hasher));
        let hash = hasher.finish();
        if let Some(job) = running_job(text) {
            self.waits_for = Some(job);
        }
        if text.is_empty() || self.seen.contains(&hash) {
            return false;
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back(hash);
        true
    }

    /// Returns the unit that the guest waits for, according to its last message about a job.
    pub(super) fn waits_for(&self) -> Option<&str> {
        self.waits_for.as_deref()
    }
}

/// Returns the unit of `A start job is running for UNIT (3s / no limit)` or
/// `Job UNIT/start running (3s / no limit)`.
fn running_job(line: &str) -> Option<String> {
    let (before, _) = line.rsplit_once(" (")?;
    let unit = match before.split_once(" job is running for ") {
        Some((_, unit)) => unit,
        None => before.split_once("Job ")?.1.strip_suffix(" running")?,
    };
    Some(unit.chars().take(100).collect())
}

impl Loop {
    /// Returns the guest's part of the status line.
    pub(super) fn status_text(&self) -> String {
        let waits = self.boot.waits_for().filter(|_| !self.ready && self.stop.is_none());
        waits.map_or_else(|| self.status.clone(), |unit| format!("waits for {unit}"))
    }

    /// Sends the status line to systemd.
    pub(super) fn send_status(&mut self) {
        let text = self.status_text();
        self.service_manager.send_status(&self.state.record, &text);
    }

    /// Writes the state record. A failure is a warning.
    pub(super) fn write_record(&self) {
        let written = self.state.record.write(&self.paths());
        written.unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    }

    /// Extends the start timeout of the unit while the guest boots and makes progress.
    pub(super) fn progress(&mut self, is_new: bool) {
        if is_new && !self.ready && self.state.waits_for_ready && self.service_manager.extend_start() {
            self.send_status();
        }
    }

    /// Returns the remaining time of the start. `None` if the guest is up, or the start does not wait for it.
    pub(super) fn start_time_left(&self) -> Option<Duration> {
        let is_pending =
            !self.ready && self.stop.is_none() && self.reboot_at.is_none() && !self.state.record.is_late;
        is_pending.then(|| self.boot.time_left()).flatten()
    }

    /// Ends the wait for a guest that is not up in time: its unit counts as started, and units ordered after
    /// it start.
    pub(super) fn end_late_start(&mut self) {
        if self.start_time_left() != Some(Duration::ZERO) {
            return;
        }
        let record = &mut self.state.record;
        record.is_late = true;
        record.waits_for = self.boot.waits_for().map(str::to_owned);
        let waits_for =
            record.waits_for.as_ref().map_or_else(String::new, |unit| format!(": it waits for '{unit}'"));
        log::warn!("machine '{}' is not up after boot.start-timeout{waits_for}", record.name);
        if let Err(error) = self.state.record.write(&self.paths()) {
            log::warn!("{error}, ignoring");
        }
        if std::mem::take(&mut self.state.waits_for_ready) {
            self.service_manager.send(&[NotifyState::Ready]);
        }
        self.send_status();
    }

    /// Handles the guest's `READY=1`: its version has booted.
    pub(super) fn reported_ready(&mut self) {
        self.became_ready();
        if self.stop.is_none() {
            self.bless_version();
        }
    }

    /// Begins to count the guest as up.
    pub(super) fn became_ready(&mut self) {
        if !self.ready && self.stop.is_none() {
            self.ready = true;
            self.state.record.is_late = false;
            self.state.record.waits_for = None;
            super::failure::clear(&self.state);
            self.enter(Phase::Running);
            self.service_manager.send(&[NotifyState::Ready]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_job_is_not_progress() {
        let mut boot = BootProgress::new(0, Duration::MAX);
        assert!(boot.is_new_output(b"[  OK  ] Reached target a.target\r\n"));
        let job = |stars: &str, time: &str| {
            format!(
                "\r\x1b[K[\x1b[0;31m{stars}\x1b[0m] Job first.service/start running ({time} / no limit)\r"
            )
        };
        assert!(boot.is_new_output(job("*     ", "3s").as_bytes()));
        for second in 4..90 {
            assert!(!boot.is_new_output(job("  ***  ", &format!("{second}s")).as_bytes()), "{second}");
        }
        assert_eq!(boot.waits_for(), Some("first.service/start"));
        assert!(boot.is_new_output(b"A start job is running for b.service - Slow (1min 2s / no limit)\n"));
        assert_eq!(boot.waits_for(), Some("b.service - Slow"));
        assert!(!boot.is_new_text(""));
    }

    #[test]
    fn remembered_texts_are_bounded() {
        let mut boot = BootProgress::new(0, Duration::MAX);
        let long = [&[b'x'; 100_000][..], b"\n"].concat();
        assert!(boot.is_new_output(&long) && !boot.is_new_output(&long));
        for word in ('a'..='z').flat_map(|one| ('a'..='z').map(move |other| format!("{one}{other}"))) {
            assert!(boot.is_new_text(&word));
        }
        assert_eq!(boot.seen.len(), REMEMBERED);
    }

    #[test]
    fn a_start_has_a_remaining_time() {
        assert_eq!(BootProgress::new(0, Duration::from_secs(600)).time_left(), Some(Duration::ZERO));
        assert_eq!(BootProgress::new(0, Duration::MAX).time_left(), None);
    }
}
