//! Every place on the host we read or write, below one root that tests point elsewhere.

pub mod access;

use crate::machine::name::Name;
use std::path::{Path, PathBuf};

/// The places of Coracle below one root directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self::below("/")
    }
}

impl Paths {
    /// All places below `root`, an absolute directory.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `path`, an absolute path of the host, below the root.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where definitions are looked for; the first directory that has one wins.
    pub fn definitions(&self) -> Vec<PathBuf> {
        ["/etc", "/run", "/usr/local/lib", "/usr/lib"]
            .iter()
            .map(|parent| self.join(parent).join("coracle/machines.d"))
            .collect()
    }

    /// Where trees of machines lie that no definition names: `/var/lib/machines`.
    pub fn images(&self) -> PathBuf {
        self.join("/var/lib/machines")
    }

    /// The run-time state of all machines: `/run/coracle`.
    pub fn state(&self) -> PathBuf {
        self.join("/run/coracle")
    }

    /// The directory of locks held for moments: `/run/coracle/.locks`.
    pub fn locks(&self) -> PathBuf {
        self.state().join(".locks")
    }

    /// The run-time state of one machine: `/run/coracle/NAME`.
    pub fn machine(&self, name: &Name) -> PathBuf {
        self.state().join(name)
    }

    /// The control socket of the machine of this name: `/run/coracle/NAME/control`.
    pub fn control(&self, name: &str) -> PathBuf {
        self.state().join(name).join("control")
    }

    /// What is kept of machines across reboots (id ranges, addresses): `/var/lib/coracle`.
    pub fn kept(&self) -> PathBuf {
        self.join("/var/lib/coracle")
    }

    /// The record of a machine's last failure: `/var/lib/coracle/failures/NAME.json`.
    pub fn failure(&self, name: &Name) -> PathBuf {
        self.kept().join("failures").join(format!("{name}.json"))
    }
}
