//! The activity of a machine with `unit.idle-stop`, in `/run/coracle/NAME/idle.json`. Written and read by
//! `control`, deleted by `cleanup`. It is valid for one boot of the guest.

use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::{Paths, store};
use serde::{Deserialize, Serialize};

/// The file in a machine's state directory.
const FILE: &str = "idle.json";

/// The counters of a machine at a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Activity {
    /// PID 1 of the boot that it belongs to.
    pub(crate) leader: u32,
    /// The time of the check, microseconds since the host booted.
    pub(crate) time: u64,
    /// The time since which the machine is idle.
    pub(crate) since: u64,
    /// Bytes over its link, in both directions.
    pub(crate) bytes: u64,
    /// Processor time, microseconds.
    pub(crate) processor: u64,
}

impl Activity {
    /// Returns the counters of the last check. `None` before the first one of a boot.
    pub(crate) fn read(paths: &Paths, name: &Name, leader: u32) -> Option<Self> {
        let text = std::fs::read(paths.machine(name).join(FILE)).ok()?;
        serde_json::from_slice(&text).ok().filter(|activity: &Self| activity.leader == leader)
    }

    /// Writes the counters atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, paths: &Paths, name: &Name) -> Result<()> {
        let file = paths.machine(name).join(FILE);
        let text = serde_json::to_vec(self).map_err(|error| Error::new(error.to_string()))?;
        store::replace(&file, &text, 0o666).context(|| format!("cannot write '{}'", file.display()))
    }
}
