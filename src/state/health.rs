//! The result of the health checks of a running machine, in `/run/coracle/NAME/health.json`. Written by
//! `control` when it changes, deleted by `cleanup`. It is valid for one boot of the guest.

use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::{Paths, store};
use serde::{Deserialize, Serialize};

/// The file in a machine's state directory.
pub(crate) const FILE: &str = "health.json";

/// The result of the health checks of a boot. Missing fields are the default, unknown ones are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct HealthState {
    /// PID 1 of the boot that it belongs to.
    pub(crate) leader: u32,
    /// Whether the machine is healthy. `None` before the first result, and without a command.
    pub(crate) healthy: Option<bool>,
    /// The number of failed checks in a row.
    pub(crate) failures: u64,
    /// The reason of the last failed check.
    pub(crate) message: Option<String>,
    /// The limits that the machine has nearly reached.
    pub(crate) near: Vec<String>,
}

impl HealthState {
    /// Returns the result of a boot, or the empty one if there is none.
    pub(crate) fn read(paths: &Paths, name: &Name, leader: u32) -> Self {
        let text = std::fs::read(paths.machine(name).join(FILE)).unwrap_or_default();
        let found = serde_json::from_slice(&text).ok().filter(|state: &Self| state.leader == leader);
        found.unwrap_or(Self { leader, ..Self::default() })
    }

    /// Writes the result atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, paths: &Paths, name: &Name) -> Result<()> {
        let file = paths.machine(name).join(FILE);
        let text = serde_json::to_vec_pretty(self).map_err(|error| Error::new(error.to_string()))?;
        // The message may contain output of the guest.
        store::replace(&file, &text, 0o600).context(|| format!("cannot write '{}'", file.display()))
    }

    /// Describes the health in one line. `None` before the first result.
    pub(crate) fn describe(&self) -> Option<String> {
        let checks = if self.failures == 1 { "check" } else { "checks" };
        let failed = format!("{} failed {checks}", self.failures);
        let reason = self.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
        match (self.healthy, self.failures) {
            (Some(true), 0) => Some("healthy".to_owned()),
            (Some(true), _) => Some(format!("healthy, {failed}{reason}")),
            (Some(false), _) => Some(format!("unhealthy, {failed}{reason}")),
            (None, 0) => None,
            (None, _) => Some(format!("starting, {failed}{reason}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_belongs_to_one_boot() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let name = Name::new("web").unwrap();
        std::fs::create_dir_all(paths.machine(&name)).unwrap();
        let state = HealthState { leader: 7, healthy: Some(false), failures: 3, ..HealthState::default() };
        state.write(&paths, &name).unwrap();
        assert_eq!(HealthState::read(&paths, &name, 7), state);
        let next = HealthState::read(&paths, &name, 8);
        assert_eq!((next.leader, next.describe()), (8, None));
        assert_eq!(state.describe().unwrap(), "unhealthy, 3 failed checks");
    }
}
