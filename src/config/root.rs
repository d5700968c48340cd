//! `[root]`: the root file system.

use super::setting::{Single, settings};
use crate::error::Result;
use crate::image::find;
use crate::machine::name::Name;
use crate::machine::root::{Root, RootSource};
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
    /// Sets the default root of the machine `name`: the image of this name.
    pub(super) fn fill_source(&mut self, paths: &Paths, name: &Name) {
        if self.directory.value().is_some() {
            return;
        }
        let missing = || RootSource::Directory(paths.images().join(name));
        let RootSource::Directory(path) = find::by_name(paths, name).unwrap_or_else(missing);
        self.directory.fill(|| paths.strip(&path));
    }

    /// Builds the root file system of the machine.
    pub(super) fn build(&self, paths: &Paths) -> Result<Root> {
        let directory = self.directory.required("root.directory")?;
        Ok(Root {
            source: RootSource::Directory(self.directory.origin().host_path(paths, directory)),
            read_only: self.read_only.required("root.read-only")?,
        })
    }
}
