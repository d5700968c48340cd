//! Definitions of build sessions: `NAME.toml` in `build.d`, with the settings of machines and `[build]`. Called by
//! `build`, `check` and the verbs of sessions.

use super::settings::BuildSettings;
use crate::config::definition_files::{self, Files};
use crate::config::layer::Layer;
use crate::config::problem::{self, Problem};
use crate::error::{Context, Error, Result};
use crate::image::find;
use crate::machine::name::Name;
use crate::machine::root::{Ephemeral, RootSource};
use crate::paths::Paths;
use std::path::PathBuf;

/// A definition of build sessions.
#[derive(Debug, Clone)]
pub(crate) struct Definition {
    /// Its name.
    pub(crate) name: Name,
    /// Its settings; those of `[build]` are in [`Self::settings`].
    pub(super) layer: Layer,
    /// The settings of `[build]`.
    pub(crate) settings: BuildSettings,
}

impl Definition {
    /// Returns the definition of a name. `None` if there is none.
    ///
    /// # Errors
    /// A masked definition, one that cannot be read, or all its problems as one error.
    pub(crate) fn find(paths: &Paths, name: &Name) -> Result<Option<Self>> {
        let files = files(paths, name)?;
        if let Some(link) = files.mask() {
            return Err(Error::new(format!("the base '{name}' is masked"))
                .with_hint(format!("remove '{}', the link to '/dev/null'", link.display())));
        }
        if files.is_empty() {
            return Ok(None);
        }
        let (layer, problems) = files.read();
        if problems.is_empty() {
            return Ok(Some(Self::new(name.clone(), layer)));
        }
        Err(problem::combined(&context(name), &problems))
    }

    /// Creates a definition from its settings.
    pub(crate) fn new(name: Name, mut layer: Layer) -> Self {
        let settings = std::mem::take(&mut layer.build);
        Self { name, layer, settings }
    }

    /// Returns the base: the root of the definition, or the image of its name.
    ///
    /// # Errors
    /// A definition without both, or a root that does not exist.
    pub(crate) fn source(&self, paths: &Paths) -> Result<RootSource> {
        let name = &self.name;
        let Some(root) = self.root(paths) else {
            return find::by_name(paths, name).ok_or_else(|| {
                Error::new(format!("the definition '{name}' has no base: there is no image '{name}'"))
                    .with_hint("set root.directory or root.stack, or create the image")
            });
        };
        let newest = find::newest_version(&root)?;
        let existing = newest.canonicalize();
        let existing =
            existing.context(|| format!("cannot find the base '{}' of '{name}'", newest.display()))?;
        Ok(RootSource::of_path(existing))
    }

    /// Returns the base, which may be missing.
    pub(super) fn planned_source(&self, paths: &Paths) -> RootSource {
        let image = || find::by_name(paths, &self.name);
        match self.root(paths) {
            Some(root) => RootSource::of_path(root),
            None => image().unwrap_or_else(|| RootSource::Directory(paths.images().join(&self.name))),
        }
    }

    /// Returns the root that it names.
    fn root(&self, paths: &Paths) -> Option<PathBuf> {
        let roots = self.layer.root.sources().into_iter();
        roots.filter_map(|root| Some(root.origin().host_path(paths, root.value()?.clone()))).next()
    }

    /// Returns whether it chooses a network.
    pub(crate) fn has_network(&self) -> bool {
        let network = &self.layer.network;
        network.mode.value().is_some()
            || network.zone.value().is_some()
            || network.bridge.value().is_some()
            || network.namespace.value().is_some()
    }

    /// Returns whether changes are in memory.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.layer.root.ephemeral.value() == Some(&Ephemeral::Memory)
    }
}

/// Returns the files of a definition.
///
/// # Errors
/// A directory that cannot be read.
pub(crate) fn files(paths: &Paths, name: &Name) -> Result<Files> {
    Files::among(&paths.build_definitions(), name)
}

/// Returns the names of all definitions, and problems of those with an invalid name.
///
/// # Errors
/// A directory that cannot be read.
pub(crate) fn names(paths: &Paths) -> Result<(Vec<Name>, Vec<Problem>)> {
    let (names, problems) = definition_files::defined_in(&paths.build_definitions())?;
    Ok((names.into_iter().collect(), problems))
}

/// Returns all definitions, those that cannot be used as errors.
///
/// # Errors
/// A directory that cannot be read.
pub(crate) fn all(paths: &Paths) -> Result<Vec<Result<Definition>>> {
    let (names, _) = names(paths)?;
    // A definition that is deleted meanwhile is not an error.
    Ok(names.into_iter().filter_map(|name| Definition::find(paths, &name).transpose()).collect())
}

/// Returns the beginning of an error.
pub(super) fn context(name: &Name) -> String {
    format!("cannot use the definition of base '{name}'")
}
