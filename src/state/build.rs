//! The part of a state record that only build sessions have.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A build session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct BuildRecord {
    /// The base, as its caller has named it.
    pub(crate) base: String,
    /// The user of its commands.
    pub(crate) user: String,
    /// User and group of the caller on the host.
    pub(crate) caller: (u32, u32),
    /// The directories of the host with its results: at the end their files belong to the caller.
    #[serde(default)]
    pub(crate) results: Vec<PathBuf>,
    /// The number of user ids of its range.
    #[serde(default)]
    pub(crate) id_count: u32,
}
