//! `[root]`: the root file system.

use super::setting::{Single, settings};
use crate::error::Result;
use crate::machine::name::Name;
use crate::machine::root::Root;
use crate::paths::Paths;
use std::path::PathBuf;

settings! {
    /// Settings of the root file system.
    RootSettings {
        /// The root directory.
        directory: Single<PathBuf> = Single "root.directory";
        /// Whether the root is mounted read-only.
        read_only: Single<bool> = Single "root.read-only", |_| false;
    }
}

impl RootSettings {
    /// Sets the default root directory of the machine `name`.
    pub(super) fn fill_directory(&mut self, name: &Name) {
        self.directory.fill(|| Paths::default().images().join(name));
    }

    /// Builds the root file system of the machine.
    pub(super) fn build(&self, paths: &Paths) -> Result<Root> {
        let directory = self.directory.required("root.directory")?;
        Ok(Root {
            directory: self.directory.origin().host_path(paths, directory),
            read_only: self.read_only.required("root.read-only")?,
        })
    }
}
