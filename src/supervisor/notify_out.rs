//! Notifications to the service manager (sd_notify(3)), if one started the supervisor: readiness, status, and
//! progress of the guest. Called by the event loop.

use crate::state::record::Record;
use sd_notify::NotifyState;
use std::time::{Duration, Instant};

/// The shortest interval between two extensions of the start timeout.
const EXTENSION_PAUSE: Duration = Duration::from_secs(5);
/// The length of each extension, µs.
const EXTENSION_MICROS: u32 = 90_000_000;

/// The shortest interval between two changes of the status line by the guest: each change costs time of the
/// service manager and its clients.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// The number of attempts to send, and the pause between them.
const ATTEMPTS: u32 = 3;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);

/// The connection to the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    watchdog: Option<Duration>,
    extended: Option<Instant>,
    status_sent: Option<Instant>,
    pending_status: Option<String>,
}

impl ServiceManager {
    /// Creates the connection from the environment.
    pub(crate) fn new() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled(),
            extended: None,
            status_sent: None,
            pending_status: None,
        }
    }

    /// Sends a notification; without a service manager it is dropped. Repeats a failed send: without
    /// `READY=1` the service manager would wait until its timeout.
    pub(crate) fn send(&self, states: &[NotifyState<'_>]) {
        for _ in 0..ATTEMPTS {
            match sd_notify::notify(states) {
                Ok(()) => return,
                Err(error) => log::warn!("cannot notify the service manager: {error}, trying again"),
            }
            std::thread::sleep(ATTEMPT_PAUSE);
        }
    }

    /// Sends the leader and the phase of a machine, with `READY=1` if its unit counts as started.
    pub(crate) fn send_start(&self, record: &Record, is_started: bool) {
        let leader = format!("X_CORACLE_LEADER_PID={}", record.leader.unwrap_or_default());
        // The same for programs that start systemd-nspawn(1).
        let of_nspawn = leader.replacen("CORACLE", "NSPAWN", 1);
        let status = status_line(record, "");
        let states = [
            NotifyState::Custom(&leader),
            NotifyState::Custom(&of_nspawn),
            NotifyState::Status(&status),
            NotifyState::Ready,
        ];
        self.send(if is_started { &states } else { &states[..3] });
    }

    /// Sends the line of `systemctl status`: the machine's phase, and the last status of the guest.
    pub(crate) fn send_status(&mut self, record: &Record, said: &str) {
        self.write_status(&status_line(record, said));
    }

    /// Sends the line at most once a second: the last of several is sent.
    pub(crate) fn queue_status(&mut self, record: &Record, said: &str) {
        self.pending_status = Some(status_line(record, said));
        self.send_pending_status();
    }

    /// Sends a queued status if it is due, and returns the time until then. `None` if none is queued.
    pub(crate) fn send_pending_status(&mut self) -> Option<Duration> {
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

    /// Extends the start timeout, for a booting guest that makes progress. Returns false if it was extended
    /// just before.
    pub(crate) fn extend_start(&mut self) -> bool {
        let is_due = self.extended.is_none_or(|last| last.elapsed() > EXTENSION_PAUSE);
        if is_due {
            self.extended = Some(Instant::now());
            self.send(&[NotifyState::ExtendTimeoutUsec(EXTENSION_MICROS)]);
        }
        is_due
    }

    /// Notifies systemd in one message that the machine is stopping, with the remaining timeout if there is
    /// one.
    pub(crate) fn send_stopping(&mut self, record: &Record, limit: Option<Duration>) {
        let status = status_line(record, "");
        let mut states = vec![NotifyState::Stopping, NotifyState::Status(&status)];
        if let Some(limit) = limit {
            // The guest's timeout, and some time for the cleanup.
            let micros = u32::try_from((limit + Duration::from_secs(15)).as_micros()).unwrap_or(u32::MAX);
            states.push(NotifyState::ExtendTimeoutUsec(micros));
        }
        (self.status_sent, self.pending_status) = (Some(Instant::now()), None);
        self.send(&states);
    }

    /// Sends a watchdog notification (`WatchdogSec=`) and returns the time until the next one, half of the
    /// limit. `None` without a watchdog.
    pub(crate) fn feed_watchdog(&self) -> Option<Duration> {
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
    use crate::machine::name::Name;

    fn record() -> Record {
        Record::new(Name::new("web").unwrap())
    }

    #[test]
    fn a_status_of_the_guest_is_sent_once_a_second() {
        let mut manager = ServiceManager::new();
        manager.queue_status(&record(), "one");
        assert_eq!(manager.pending_status, None);
        manager.queue_status(&record(), "two");
        manager.queue_status(&record(), "three");
        assert!(manager.send_pending_status().is_some_and(|left| left <= STATUS_PAUSE));
        assert!(manager.pending_status.as_ref().is_some_and(|text| text.ends_with(": three")));
        manager.status_sent = Instant::now().checked_sub(STATUS_PAUSE);
        assert_eq!((manager.send_pending_status(), manager.pending_status.take()), (None, None));
    }

    #[test]
    fn a_change_of_the_phase_does_not_wait() {
        let mut manager = ServiceManager::new();
        manager.queue_status(&record(), "one");
        manager.queue_status(&record(), "two");
        manager.send_status(&record(), "");
        assert_eq!(manager.pending_status, None);
    }
}
