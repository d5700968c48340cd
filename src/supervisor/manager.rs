//! What the service manager is told of a machine (sd_notify(3)), where one started us: readiness,
//! status, and that the guest makes progress. Called by the event loop; it decides nothing else.

use crate::host::state::Record;
use sd_notify::NotifyState;
use std::time::{Duration, Instant};

/// How often a start time-out is extended at most.
const EXTENSION_PAUSE: Duration = Duration::from_secs(5);
/// What each extension grants, µs.
const EXTENSION_MICROS: u32 = 90_000_000;

/// How often something is said that is not heard, and how long after.
const ATTEMPTS: u32 = 3;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);

/// The service manager that started us, or nobody.
#[derive(Debug)]
pub struct Manager {
    watchdog: Option<Duration>,
    extended: Option<Instant>,
}

impl Manager {
    /// The one named by our environment.
    pub fn new() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled(), extended: None }
    }

    /// Says something; with nobody listening it is dropped. What could not be said is said again: a
    /// start whose end is never heard of would be waited for until it times out.
    pub fn tell(&self, states: &[NotifyState<'_>]) {
        for _ in 0..ATTEMPTS {
            match sd_notify::notify(states) {
                Ok(()) => return,
                Err(error) => log::warn!("cannot tell the service manager: {error}, trying again"),
            }
            std::thread::sleep(ATTEMPT_PAUSE);
        }
    }

    /// The line of `systemctl status`: the machine's phase, and what the guest said last.
    pub fn tell_status(&self, record: &Record, said: &str) {
        let phase = record.phase.as_str();
        let text = if said.is_empty() { phase.to_owned() } else { format!("{phase}: {said}") };
        self.tell(&[NotifyState::Status(&text)]);
    }

    /// Extends the start time-out, for a guest that boots and shows that it makes progress; false if it was extended
    /// just before.
    pub fn extend_start(&mut self) -> bool {
        let is_due = self.extended.is_none_or(|last| last.elapsed() > EXTENSION_PAUSE);
        if is_due {
            self.extended = Some(Instant::now());
            self.tell(&[NotifyState::ExtendTimeoutUsec(EXTENSION_MICROS)]);
        }
        is_due
    }

    /// Says that the machine stops, and how long that may take where there is a limit.
    pub fn tell_stopping(&self, limit: Option<Duration>) {
        self.tell(&[NotifyState::Stopping]);
        if let Some(limit) = limit {
            // What we grant the guest, systemd grants us, and a little for the rest.
            let micros = u32::try_from((limit + Duration::from_secs(15)).as_micros()).unwrap_or(u32::MAX);
            self.tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
        }
    }

    /// Meets a unit's `WatchdogSec=`, and says when to do so next: at half its time. Without one
    /// nothing wakes us up.
    pub fn feed_watchdog(&self) -> Option<Duration> {
        let limit = self.watchdog?;
        self.tell(&[NotifyState::Watchdog]);
        Some(limit / 2)
    }
}
