//! The list of devices added to a running machine, in `/run/coracle/NAME/devices.json`. Written and read by
//! `control`, deleted by `cleanup`. It is valid for one boot of the guest.

use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::{Paths, store};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The file in a machine's state directory.
pub(crate) const FILE: &str = "devices.json";

/// A device of a running machine. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct AddedDevice {
    /// The device of the host.
    pub(crate) device: PathBuf,
    /// Its path inside.
    pub(crate) path: PathBuf,
    /// Whether it is a block device.
    pub(crate) block: bool,
    /// Its number (makedev(3)).
    pub(crate) number: u64,
    /// The access that the cgroup permits: `rw` or `r`.
    pub(crate) access: String,
    /// Whether it was added because it was plugged in.
    #[serde(default)]
    pub(crate) hotplug: bool,
    /// PID 1 of the boot that it belongs to.
    pub(crate) leader: u32,
}

/// Returns the devices of a boot, oldest first.
///
/// # Errors
/// The list cannot be read.
pub(crate) fn read(paths: &Paths, name: &Name, leader: u32) -> Result<Vec<AddedDevice>> {
    let file = paths.machine(name).join(FILE);
    let reading = || format!("cannot read '{}'", file.display());
    let all: Vec<AddedDevice> = match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Error::new(error.to_string()).context(reading()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).context(reading),
    };
    Ok(all.into_iter().filter(|one| one.leader == leader).collect())
}

/// Returns whether a device was added in this boot. A list that cannot be read counts as one with devices.
pub(crate) fn has_any(paths: &Paths, name: &Name, leader: u32) -> bool {
    read(paths, name, leader).map_or(true, |devices| !devices.is_empty())
}

/// Writes the list atomically.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write(paths: &Paths, name: &Name, devices: &[AddedDevice]) -> Result<()> {
    let file = paths.machine(name).join(FILE);
    let text = serde_json::to_vec_pretty(devices).map_err(|error| Error::new(error.to_string()))?;
    store::replace(&file, &text, 0o666).context(|| format!("cannot write '{}'", file.display()))
}
