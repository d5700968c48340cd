//! The part of a state record that only build sessions have.

use crate::error::{Context, Result};
use crate::machine::build_cache::PackageManager;
use crate::machine::hash::siphash;
use crate::machine::name::Name;
use crate::paths::{Paths, store};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

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
    /// Whether its root has a path on the host.
    #[serde(default)]
    pub(crate) is_exposed: bool,
    /// The directories of the host with its results: at the end their files belong to the caller.
    #[serde(default)]
    pub(crate) results: Vec<PathBuf>,
    /// The number of user ids of its range.
    #[serde(default)]
    pub(crate) id_count: u32,
    /// Whether it has begun with its changes on the disk: they stay if its supervisor is killed.
    #[serde(default)]
    pub(crate) is_begun: bool,
    /// Whether its changes are written to the disk when a command requests that: they outlast a reboot of the host.
    #[serde(default)]
    pub(crate) is_synced: bool,
    /// Whether systemd ends it, not its caller.
    #[serde(default)]
    pub(crate) is_interrupted: bool,
    /// The inodes of the directories that its root stands on, the uppermost first. Empty if its base is not a
    /// stack.
    #[serde(default)]
    pub(crate) lower: Vec<u64>,
    /// Its caches of packages.
    #[serde(default)]
    pub(crate) caches: Vec<CacheRecord>,
    /// The files that Coracle has created in its root.
    #[serde(default)]
    pub(crate) files: Vec<CreatedFile>,
}

/// Keeps the variables of a definition for the commands of a session, readable by root only.
///
/// # Errors
/// The file that cannot be written.
pub(crate) fn keep_environment(paths: &Paths, name: &Name, variables: &[(String, String)]) -> Result<()> {
    let path = paths.session_environment(name);
    let doing = || format!("cannot write '{}'", path.display());
    let text = serde_json::to_vec(variables).map_err(std::io::Error::other).context(doing)?;
    store::replace(&path, &text, 0o600).context(doing)
}

/// Returns the variables of the definition of a session.
pub(crate) fn environment(paths: &Paths, name: &Name) -> Vec<(String, String)> {
    let text = std::fs::read(paths.session_environment(name)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// A cache of packages in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CacheRecord {
    /// The package manager.
    pub(crate) manager: PackageManager,
    /// The directory of the host.
    pub(crate) directory: PathBuf,
    /// The directory of the host with the changes of the session.
    pub(crate) changes: PathBuf,
}

/// A file of a session that is not part of its results, unless a command has changed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreatedFile {
    /// Its path inside.
    path: PathBuf,
    /// The hash of its content.
    hash: u64,
}

/// The key of the hash of contents.
const KEY: u128 = 0x0c6e_55d1_90a7_4b1f_8e23_b6f4_71ac_d835;

impl CreatedFile {
    /// Describes a file with this content.
    pub(crate) fn new(path: PathBuf, content: &str) -> Self {
        Self { path, hash: siphash(KEY, &[content.as_bytes()]) }
    }

    /// Returns its path inside.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether it had this content when it was created.
    pub(crate) fn had(&self, content: &[u8]) -> bool {
        siphash(KEY, &[content]) == self.hash
    }
}
