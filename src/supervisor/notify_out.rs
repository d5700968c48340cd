//! What the service manager is told of a machine (sd_notify(3)), where one started us: readiness,
//! status, and that the guest makes progress. Called by the event loop; it decides nothing else.

use crate::state::record::Record;
use sd_notify::NotifyState;
use std::time::{Duration, Instant};

/// How often a start time-out is extended at most.
const EXTENSION_PAUSE: Duration = Duration::from_secs(5);
/// What each extension grants, µs.
const EXTENSION_MICROS: u32 = 90_000_000;

/// How often the guest can change the status line: each change costs the service manager and its listeners time.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// How often something is said that is not heard, and how long after.
const ATTEMPTS: u32 = 3;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);

/// The service manager that started us, or nobody.
#[derive(Debug)]
pub struct ServiceManager {
    watchdog: Option<Duration>,
    extended: Option<Instant>,
    status_sent: Option<Instant>,
    pending_status: Option<String>,
}

impl ServiceManager {
    /// The one named by our environment.
    pub fn new() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled(),
            extended: None,
            status_sent: None,
            pending_status: None,
        }
    }

    /// Says something; with nobody listening it is dropped. What could not be said is said again: a
    /// start whose end is never heard of would be waited for until it times out.
    pub fn send(&self, states: &[NotifyState<'_>]) {
        for _ in 0..ATTEMPTS {
            match sd_notify::notify(states) {
                Ok(()) => return,
                Err(error) => log::warn!("cannot tell the service manager: {error}, trying again"),
            }
            std::thread::sleep(ATTEMPT_PAUSE);
        }
    }

    /// The line of `systemctl status`: the machine's phase, and what the guest said last.
    pub fn send_status(&mut self, record: &Record, said: &str) {
        self.write_status(&status_line(record, said));
    }

    /// The same, at most once a second: the last of several counts.
    pub fn queue_status(&mut self, record: &Record, said: &str) {
        self.pending_status = Some(status_line(record, said));
        self.send_pending_status();
    }

    /// Sends a status that waited for its second, and returns the time until one can be sent. `None` if none waits.
    pub fn send_pending_status(&mut self) -> Option<Duration> {
        let text = self.pending_status.take()?;
        let left =
            self.status_sent.map_or(Duration::ZERO, |last| STATUS_PAUSE.saturating_sub(last.elapsed()));
        if left.is_zero() {
            self.write_status(&text);
            return None;
        }
        self.pending_status = Some(text);
        Some(left)
    }

    fn write_status(&mut self, text: &str) {
        (self.status_sent, self.pending_status) = (Some(Instant::now()), None);
        self.send(&[NotifyState::Status(text)]);
    }

    /// Extends the start time-out, for a guest that boots and shows that it makes progress; false if it was extended
    /// just before.
    pub fn extend_start(&mut self) -> bool {
        let is_due = self.extended.is_none_or(|last| last.elapsed() > EXTENSION_PAUSE);
        if is_due {
            self.extended = Some(Instant::now());
            self.send(&[NotifyState::ExtendTimeoutUsec(EXTENSION_MICROS)]);
        }
        is_due
    }

    /// Says that the machine stops, and how long that may take where there is a limit.
    pub fn send_stopping(&self, limit: Option<Duration>) {
        self.send(&[NotifyState::Stopping]);
        if let Some(limit) = limit {
            // What we grant the guest, systemd grants us, and a little for the rest.
            let micros = u32::try_from((limit + Duration::from_secs(15)).as_micros()).unwrap_or(u32::MAX);
            self.send(&[NotifyState::ExtendTimeoutUsec(micros)]);
        }
    }

    /// Meets a unit's `WatchdogSec=`, and says when to do so next: at half its time. Without one
    /// nothing wakes us up.
    pub fn feed_watchdog(&self) -> Option<Duration> {
        let limit = self.watchdog?;
        self.send(&[NotifyState::Watchdog]);
        Some(limit / 2)
    }
}

fn status_line(record: &Record, said: &str) -> String {
    let phase = record.phase.as_str();
    if said.is_empty() { phase.to_owned() } else { format!("{phase}: {said}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_the_guest_waits_for_its_second() {
        let mut manager = ServiceManager::new();
        manager.queue_status(&Record::default(), "one");
        assert_eq!(manager.pending_status, None);
        manager.queue_status(&Record::default(), "two");
        manager.queue_status(&Record::default(), "three");
        assert!(manager.send_pending_status().is_some_and(|left| left <= STATUS_PAUSE));
        assert!(manager.pending_status.as_ref().is_some_and(|text| text.ends_with(": three")));
        manager.status_sent = Instant::now().checked_sub(STATUS_PAUSE);
        assert_eq!((manager.send_pending_status(), manager.pending_status.take()), (None, None));
    }

    #[test]
    fn a_change_of_the_phase_does_not_wait() {
        let mut manager = ServiceManager::new();
        manager.queue_status(&Record::default(), "one");
        manager.queue_status(&Record::default(), "two");
        manager.send_status(&Record::default(), "");
        assert_eq!(manager.pending_status, None);
    }
}
