//! `[health]`: regular checks of a running machine.

use super::setting::{Single, settings};
use super::values::{CountLimit, RawValue, Value, words};
use crate::error::{Error, Result};
use crate::machine::health::{Health, HealthAction};
use std::time::Duration;

/// The default time between two checks.
const INTERVAL: Duration = Duration::from_secs(30);
/// The shortest time between two checks: each executes the program.
const SHORTEST: Duration = Duration::from_secs(1);
/// The default number of failed checks.
const RETRIES: u64 = 3;

settings! {
    /// Settings of the health checks.
    HealthSettings {
        /// The command that checks the machine.
        command: Single<String> = Single "health.command";
        /// The time between two checks.
        interval: Single<Duration> = Single "health.interval";
        /// The number of failed checks in a row.
        retries: Single<CountLimit> = Single "health.retries";
        /// The reaction to them.
        action: Single<HealthAction> = Single "health.action";
    }
}

impl HealthSettings {
    /// Builds the health checks of the machine. `None` if no setting is set.
    ///
    /// # Errors
    /// An interval that is too short, or a reaction without a command.
    pub(super) fn build(&self) -> Result<Option<Health>> {
        if *self == Self::default() {
            return Ok(None);
        }
        let interval = self.interval.value().copied().unwrap_or(INTERVAL);
        if interval < SHORTEST {
            return Err(
                Error::new("health.interval is shorter than 1 s").with_hint("write 1 or more, in seconds")
            );
        }
        let command = self.command.value().cloned();
        let action = self.action.value().copied().unwrap_or_default();
        if command.is_none() && (action != HealthAction::None || self.retries.value().is_some()) {
            return Err(Error::new("health.action and health.retries require health.command")
                .with_hint("write a command line that succeeds in a healthy machine"));
        }
        let retries = self.retries.value().map_or(RETRIES, |retries| retries.0);
        Ok(Some(Health { command, interval, retries, action }))
    }
}

words!(
    HealthAction,
    [
        ("none", HealthAction::None),
        ("restart", HealthAction::Restart),
        ("stop", HealthAction::Stop),
        ("kill", HealthAction::Kill),
    ]
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::setting::Origin;

    #[test]
    fn checks_need_a_setting_and_actions_a_command() {
        let mut settings = HealthSettings::default();
        assert_eq!(settings.build(), Ok(None));
        settings.interval.set(Duration::from_secs(5), Origin::Default);
        let health = settings.build().unwrap().unwrap();
        assert_eq!((health.command, health.retries, health.action), (None, RETRIES, HealthAction::None));
        settings.action.set(HealthAction::Restart, Origin::Default);
        assert!(settings.build().is_err());
        settings.command.set("true".into(), Origin::Default);
        assert_eq!(settings.build().unwrap().unwrap().action, HealthAction::Restart);
        settings.interval.set(Duration::from_millis(10), Origin::Default);
        assert!(settings.build().is_err());
    }
}
