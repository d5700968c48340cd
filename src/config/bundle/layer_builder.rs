//! A layer under construction from a bundle: values with their JSON pointers, and all problems. Used by the
//! features of `bundle`.

use crate::config::layer::{Layer, Origin, Setting};
use crate::config::problem::Problem;
use crate::config::values::RawValue;
use crate::error::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// A layer under construction.
pub(super) struct LayerBuilder {
    /// The directory of the bundle, absolute.
    directory: PathBuf,
    /// Its `config.json`.
    file: PathBuf,
    /// The settings so far.
    pub(super) layer: Layer,
    /// The problems so far: errors end the start, warnings are ignored properties.
    pub(super) problems: Vec<Problem>,
}

impl LayerBuilder {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            file: directory.join(super::NAME),
            layer: Layer::default(),
            problems: Vec::new(),
        }
    }

    /// Returns the origin of a property.
    pub(super) fn origin(&self, pointer: &str) -> Origin {
        Origin::Bundle { path: self.file.clone(), pointer: pointer.to_owned() }
    }

    /// Sets a setting to the value of a property.
    pub(super) fn set(&mut self, pointer: &str, key: &str, raw: &RawValue) {
        let origin = self.origin(pointer);
        let set = match Setting::find(key) {
            Some(setting) => self.layer.set(setting, raw, origin),
            None => Err(Error::new(format!("unknown setting '{key}'"))),
        };
        self.check(pointer, set);
    }

    /// Returns the value. `None` after a problem, which is collected.
    pub(super) fn check<T>(&mut self, pointer: &str, read: Result<T>) -> Option<T> {
        read.map_err(|error| self.refuse(pointer, &error)).ok()
    }

    /// Adds an error.
    pub(super) fn refuse(&mut self, pointer: &str, error: &Error) {
        self.problems.push(Problem::at_origin(&self.origin(pointer), error));
    }

    /// Adds a warning.
    pub(super) fn warn(&mut self, pointer: &str, text: &str) {
        self.problems.push(Problem::warning(&self.origin(pointer), text.to_owned()));
    }

    /// Returns a path of the host; a relative one is below the bundle.
    pub(super) fn host_path(&self, text: &str) -> Result<PathBuf> {
        if text.is_empty() || text.contains('\0') {
            return Err(Error::new("the path is empty or contains a NUL character"));
        }
        let path = self.directory.join(text);
        if path.components().any(|part| part == Component::ParentDir) {
            return path.canonicalize().map_err(Error::from);
        }
        Ok(path.components().collect())
    }
}
