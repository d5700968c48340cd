//! The dependencies of a machine's unit, and its restarts (systemd.unit(5), systemd.service(5)).

use super::name::Name;
use super::unit_name::ServiceTemplate;
use crate::error::{Error, Result};
use std::time::Duration;

/// The suffixes of units.
const SUFFIXES: [&str; 8] =
    [".service", ".target", ".socket", ".mount", ".path", ".timer", ".scope", ".slice"];
/// The longest name of a unit (`UNIT_NAME_MAX`).
const LONGEST: usize = 255;

/// The dependencies and restarts of a machine's unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dependencies {
    /// Units that start before it and stop after it.
    pub(crate) after: Vec<Dependency>,
    /// Units that start after it and stop before it.
    pub(crate) before: Vec<Dependency>,
    /// Units that are started with it.
    pub(crate) wants: Vec<Dependency>,
    /// Units without which it does not start, and with which it stops.
    pub(crate) requires: Vec<Dependency>,
    /// When systemd starts it again.
    pub(crate) restart: Option<Restart>,
    /// The time before it is started again.
    pub(crate) restart_delay: Option<Duration>,
    /// The time before each start.
    pub(crate) start_delay: Option<Duration>,
    /// The time without activity after which it is stopped.
    pub(crate) idle_stop: Option<Duration>,
}

/// A machine of Coracle, or another unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency(String);

impl Dependency {
    /// Parses the name of a machine, or that of a unit with its suffix.
    ///
    /// # Errors
    /// The name is neither.
    pub(crate) fn new(text: &str) -> Result<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        let is_unit =
            SUFFIXES.iter().any(|suffix| text.strip_suffix(suffix).is_some_and(|bare| !bare.is_empty()));
        if is_unit && text.len() <= LONGEST && text.bytes().all(fits) || !is_unit && Name::new(text).is_ok() {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(format!("{text:?} is neither the name of a machine nor that of a unit"))
            .with_hint("write, for example, \"db\" or \"postgresql.service\""))
    }

    /// Returns the name as written.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the unit, with the template of each machine.
    pub(crate) fn unit(&self, template_of: &dyn Fn(&Name) -> ServiceTemplate) -> String {
        match Name::new(&self.0) {
            Ok(name) if !SUFFIXES.iter().any(|suffix| self.0.ends_with(suffix)) => {
                template_of(&name).service(&name)
            }
            _ => self.0.clone(),
        }
    }
}

/// When systemd starts a machine again that has ended (`Restart=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    No,
    /// After a failure.
    OnFailure,
    /// Also after the guest has powered off.
    Always,
}

impl Restart {
    /// Returns the value of `Restart=`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_without_a_suffix_are_machines() {
        let template_of = |name: &Name| ServiceTemplate::of_machinectl(name.as_str() == "old");
        for (text, unit) in [
            ("db", "coracle@db.service"),
            ("a.b", "coracle@a.b.service"),
            ("old", "systemd-nspawn@old.service"),
            ("postgresql.service", "postgresql.service"),
            ("systemd-nspawn@db.service", "systemd-nspawn@db.service"),
            ("srv-data.mount", "srv-data.mount"),
        ] {
            assert_eq!(Dependency::new(text).unwrap().unit(&template_of), unit);
        }
        for bad in ["", ".service", "a b", "a b.service", "x%i.service", "-db", "a\n.target"] {
            assert!(Dependency::new(bad).is_err(), "{bad:?}");
        }
    }
}
