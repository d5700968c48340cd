//! The list of what was bound into a running machine, in `/run/coracle/NAME/binds.json`. Written and
//! read by `control`, removed by `cleanup`. It tells of one boot of the guest: a reboot begins with
//! the mounts of the definition again.

use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The file in a machine's state directory.
pub const FILE: &str = "binds.json";

/// One bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Binding {
    /// Where it appears inside.
    pub target: PathBuf,
    /// What of the host.
    pub source: PathBuf,
    /// Whether it is read-only inside.
    pub read_only: bool,
    /// Whose files are whose, as it was asked for.
    pub map: String,
    /// The kernel's id of the mount.
    pub mount: u64,
    /// PID 1 of the boot it belongs to.
    pub leader: u32,
}

/// The mounts of a boot that are there still, oldest first.
///
/// # Errors
/// A list that cannot be read.
pub fn read(paths: &Paths, name: &Name, leader: u32) -> Result<Vec<Binding>> {
    let file = paths.machine(name).join(FILE);
    let reading = || format!("cannot read '{}'", file.display());
    let all: Vec<Binding> = match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Error::new(error.to_string()).context(reading()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).context(reading),
    };
    let mounts = std::fs::read_to_string(format!("/proc/{leader}/mountinfo")).context(reading)?;
    let ids: Vec<u64> = mounts.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    Ok(all.into_iter().filter(|one| one.leader == leader && ids.contains(&one.mount)).collect())
}

/// Writes the list whole or not at all.
///
/// # Errors
/// What cannot be written.
pub fn write(paths: &Paths, name: &Name, bindings: &[Binding]) -> Result<()> {
    let directory = paths.machine(name);
    let temporary = directory.join(".binds.json");
    let text = serde_json::to_vec_pretty(bindings).map_err(|error| Error::new(error.to_string()))?;
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, directory.join(FILE)))
        .context(|| format!("cannot write '{}'", temporary.display()))
}
