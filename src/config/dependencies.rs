//! `[unit]`: dependencies and restarts of the machine's unit.

use super::setting::{List, Single, settings};
use super::values::{RawValue, Value, quoted, words};
use crate::error::{Error, Result};
use crate::machine::dependencies::{Dependencies, Dependency, Restart};
use std::time::Duration;

/// The longest delay of a start: systemd limits each part of it to two minutes.
const LONGEST_DELAY: Duration = Duration::from_secs(90);
/// The shortest idle time: each check executes the program.
const SHORTEST_IDLE: Duration = Duration::from_secs(1);
/// The default delay of a restart. Restarts are not limited in number, and a start may fail at once.
const RESTART_DELAY: Duration = Duration::from_secs(2);

settings! {
    /// Settings of the unit.
    DependencySettings {
        /// Machines and units that start before it.
        after: List<Dependency> = SingleOrList "unit.after";
        /// Machines and units that start after it.
        before: List<Dependency> = SingleOrList "unit.before";
        /// Machines and units that are started with it.
        wants: List<Dependency> = SingleOrList "unit.wants";
        /// Machines and units that it does not run without.
        requires: List<Dependency> = SingleOrList "unit.requires";
        /// When it is started again.
        restart: Single<Restart> = Single "unit.restart";
        /// The time before it is started again.
        restart_delay: Single<Duration> = Single "unit.restart-delay";
        /// The time before each start.
        start_delay: Single<Duration> = Single "unit.start-delay";
        /// The time without activity after which it is stopped.
        idle_stop: Single<Duration> = Single "unit.idle-stop";
    }
}

impl DependencySettings {
    /// Builds the dependencies of the machine.
    ///
    /// # Errors
    /// A start delay that systemd does not wait for, or a short idle time.
    pub(super) fn build(&self) -> Result<Dependencies> {
        let all = |list: &List<Dependency>| list.values().cloned().collect();
        let start_delay = self.start_delay.value().copied();
        if start_delay.is_some_and(|delay| delay > LONGEST_DELAY) {
            return Err(Error::new(format!("unit.start-delay exceeds {} s", LONGEST_DELAY.as_secs()))
                .with_hint("order the start by unit.after, or start the machine by a timer"));
        }
        let idle_stop = self.idle_stop.value().copied();
        if idle_stop.is_some_and(|idle| idle < SHORTEST_IDLE) {
            return Err(
                Error::new("unit.idle-stop is shorter than 1 s").with_hint("write 1 or more, in seconds")
            );
        }
        let restart = self.restart.value().copied();
        let default_delay = restart.filter(|restart| *restart != Restart::No).map(|_| RESTART_DELAY);
        Ok(Dependencies {
            after: all(&self.after),
            before: all(&self.before),
            wants: all(&self.wants),
            requires: all(&self.requires),
            restart,
            restart_delay: self.restart_delay.value().copied().or(default_delay),
            start_delay,
            idle_stop,
        })
    }
}

impl Value for Dependency {
    fn read(raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Text(text) => Self::new(text),
            _ => Err(raw.expected("the name of a machine or unit")),
        }
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

words!(Restart, [("no", Restart::No), ("on-failure", Restart::OnFailure), ("always", Restart::Always)]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::setting::Origin;

    #[test]
    fn a_machine_that_fails_at_once_is_started_again_later() {
        let delay = |restart: Option<Restart>, delay: Option<Duration>| {
            let mut settings = DependencySettings::default();
            if let Some(restart) = restart {
                settings.restart.set(restart, Origin::Default);
            }
            if let Some(delay) = delay {
                settings.restart_delay.set(delay, Origin::Default);
            }
            settings.build().unwrap().restart_delay
        };
        let defined = Some(Duration::from_millis(100));
        for (restart, default) in [
            (None, None),
            (Some(Restart::No), None),
            (Some(Restart::OnFailure), Some(RESTART_DELAY)),
            (Some(Restart::Always), Some(RESTART_DELAY)),
        ] {
            assert_eq!(delay(restart, None), default, "{restart:?}");
            assert_eq!(delay(restart, defined), defined, "{restart:?}");
        }
    }
}
