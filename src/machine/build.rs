//! A build session: a disposable machine that runs commands, one after the other or side by side.

use super::build_cache::PackageCache;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The properties of a session beside those of every machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Build {
    /// The base, as its caller has named it.
    pub(crate) base: String,
    /// The user of its commands.
    pub(crate) user: BuildUser,
    /// The directories of the host with its results.
    pub(crate) results: Vec<PathBuf>,
    /// Its caches of packages.
    pub(crate) caches: Vec<PackageCache>,
    /// Whether its changes are written to the disk when a command requests that.
    #[serde(default)]
    pub(crate) is_synced: bool,
    /// The largest size of its changes in memory, bytes. `None` for half of the memory of the host.
    #[serde(default)]
    pub(crate) memory_size: Option<u64>,
    /// Whether its root has a path on the host.
    #[serde(default)]
    pub(crate) is_exposed: bool,
}

/// The user of the commands of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct BuildUser {
    /// Its name inside. It is created if the base does not have it.
    pub(crate) name: String,
    /// Its number, if the caller has chosen one.
    pub(crate) uid: Option<u32>,
    /// User and group of the caller on the host, to whom its files in bind mounts belong.
    pub(crate) caller: (u32, u32),
}
