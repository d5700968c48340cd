//! Settings: how a value is stored with its origin, merged and shown, and the macro that declares the rows of
//! a feature. Used by each feature of `config`, by `layer` and by `toml`; it has no setting of its own.

use super::profile::Profile;
use super::values::{RawValue, Value};
use crate::error::{Error, Result};
use crate::paths::Paths;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The default of the setting.
    Default,
    /// An option of the command line.
    Flag(&'static str),
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// A property of an OCI bundle.
    Bundle {
        /// Its `config.json`.
        path: PathBuf,
        /// The JSON pointer of the property (RFC 6901).
        pointer: String,
    },
}

impl Origin {
    /// Returns the path on the host of `path` with this origin: paths of definitions are below the root
    /// directory in use (`--root`), paths of options and of their bundle are not.
    pub(super) fn host_path(&self, paths: &Paths, path: PathBuf) -> PathBuf {
        if matches!(self, Self::Flag(_) | Self::Bundle { .. }) { path } else { paths.join(path) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag(flag) => f.write_str(flag),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Bundle { path, pointer } => write!(f, "{}#{pointer}", path.display()),
        }
    }
}

/// A value with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub(crate) value: T,
    /// Its origin.
    pub(crate) origin: Origin,
}

/// A setting with one value: the upper layer replaces the lower one. Most are not set: a layer is moved
/// often, so such a setting is as small as an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Single<T>(Option<Box<Sourced<T>>>);

/// A setting with a list of values: the upper layer is appended to the lower one, unless the upper layer
/// resets the list first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T> {
    resets: bool,
    items: Vec<Sourced<T>>,
}

impl<T> Default for Single<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { resets: false, items: Vec::new() }
    }
}

impl<T> Single<T> {
    /// Returns the value, if set.
    pub(crate) fn value(&self) -> Option<&T> {
        self.0.as_ref().map(|sourced| &sourced.value)
    }

    /// Returns the origin of the value; [`Origin::Default`] if the setting is not set.
    pub(crate) fn origin(&self) -> Origin {
        self.0.as_ref().map_or(Origin::Default, |sourced| sourced.origin.clone())
    }

    /// Sets `value`, replacing the previous one.
    pub fn set(&mut self, value: T, origin: Origin) {
        self.0 = Some(Box::new(Sourced { value, origin }));
    }

    /// Sets the default if the setting is not set.
    pub(crate) fn fill(&mut self, default: impl FnOnce() -> T) {
        self.0.get_or_insert_with(|| Box::new(Sourced { value: default(), origin: Origin::Default }));
    }

    /// Sets the default of `profile` if the setting is not set.
    pub(super) fn fill_for(&mut self, profile: Profile, default: impl FnOnce(Profile) -> T) {
        self.fill(|| default(profile));
    }

    /// Takes the value of `below` if the setting is not set.
    pub(super) fn merge(&mut self, below: &mut Self) {
        if self.0.is_none() {
            self.0 = below.0.take();
        }
    }
}

impl<T: Clone> Single<T> {
    /// Returns the value of a setting that each machine has.
    ///
    /// # Errors
    /// The setting `key` is neither set nor has a default.
    pub(super) fn required(&self, key: &str) -> Result<T> {
        self.value().cloned().ok_or_else(|| Error::new(format!("'{key}' is required")))
    }
}

impl<T> List<T> {
    /// Iterates over the values in order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|sourced| &sourced.value)
    }

    /// Returns the values in order, each with its origin.
    pub(crate) fn sourced(&self) -> &[Sourced<T>] {
        &self.items
    }

    /// Appends a value.
    pub(crate) fn push(&mut self, value: T, origin: Origin) {
        self.items.push(Sourced { value, origin });
    }

    /// Removes and returns all values.
    pub(crate) fn take(&mut self) -> Vec<Sourced<T>> {
        std::mem::take(&mut self.items)
    }

    /// Removes duplicates by `key`; the last value with each key remains in its position.
    pub(crate) fn keep_last<K: Ord>(&mut self, key: impl Fn(&T) -> K) {
        let mut seen = BTreeSet::new();
        self.items.reverse();
        self.items.retain(|sourced| seen.insert(key(&sourced.value)));
        self.items.reverse();
    }

    /// Removes all values, of this layer and of the layers below it.
    pub(crate) fn reset(&mut self) {
        *self = Self { resets: true, items: Vec::new() };
    }

    /// Takes the values of `below`, before its own ones, unless it resets the list.
    pub(super) fn merge(&mut self, below: &mut Self) {
        if !self.resets {
            below.items.append(&mut self.items);
            *self = std::mem::take(below);
        }
    }
}

/// A setting of a layer, independent of its type.
pub(super) trait SettingCell {
    /// Parses `raw` and sets or appends the value.
    fn set_raw(&mut self, raw: &RawValue, origin: Origin) -> Result<()>;
    /// Parses the entry `name` of a table, and sets or appends the value.
    fn set_entry(&mut self, name: &str, raw: &RawValue, origin: Origin) -> Result<()>;
    /// Removes all values, those of a list in the layers below too.
    fn clear(&mut self);
    /// Removes all values of this layer.
    fn unset(&mut self);
    /// Returns whether this layer has a value.
    fn is_set(&self) -> bool;
    /// Returns the values as a definition contains them.
    fn lines(&self) -> Vec<Sourced<String>>;
}

fn shown<T: Value>(sourced: &Sourced<T>) -> Sourced<String> {
    Sourced { value: sourced.value.show(), origin: sourced.origin.clone() }
}

impl<T: Value> SettingCell for Single<T> {
    fn set_raw(&mut self, raw: &RawValue, origin: Origin) -> Result<()> {
        self.set(T::read(raw)?, origin);
        Ok(())
    }

    fn set_entry(&mut self, name: &str, raw: &RawValue, origin: Origin) -> Result<()> {
        self.set(T::read_entry(name, raw)?, origin);
        Ok(())
    }

    fn clear(&mut self) {
        self.0 = None;
    }

    fn unset(&mut self) {
        self.0 = None;
    }

    fn is_set(&self) -> bool {
        self.0.is_some()
    }

    fn lines(&self) -> Vec<Sourced<String>> {
        self.0.iter().map(|sourced| shown(sourced)).collect()
    }
}

impl<T: Value> SettingCell for List<T> {
    fn set_raw(&mut self, raw: &RawValue, origin: Origin) -> Result<()> {
        self.push(T::read(raw)?, origin);
        Ok(())
    }

    fn set_entry(&mut self, name: &str, raw: &RawValue, origin: Origin) -> Result<()> {
        self.push(T::read_entry(name, raw)?, origin);
        Ok(())
    }

    fn clear(&mut self) {
        self.reset();
    }

    fn unset(&mut self) {
        *self = Self::default();
    }

    fn is_set(&self) -> bool {
        !self.items.is_empty()
    }

    fn lines(&self) -> Vec<Sourced<String>> {
        self.items.iter().map(shown).collect()
    }
}

/// The syntax of a setting in a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `key = value`.
    Single,
    /// `key = [value, …]`.
    List,
    /// `key = value`, which replaces the list of lower layers, or `key = [value, …]`.
    SingleOrList,
    /// `[[key]]`, one table for each value.
    Tables,
    /// `[key]`, a table with arbitrary names.
    Variables,
    /// Available on the command line only.
    FlagOnly,
}

/// A row of the table of settings, which definitions and command line share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The key in a definition, section and key joined by dots.
    pub key: &'static str,
    /// Its syntax in a definition.
    pub(crate) shape: Shape,
}

impl Setting {
    /// Returns whether its values are secret: they are not shown.
    pub(crate) fn is_secret(&self) -> bool {
        self.key == "credentials.set"
    }

    /// Returns whether only build sessions have it.
    pub(super) fn is_of_build(&self) -> bool {
        self.key.starts_with("build.")
    }

    /// Returns the last part of the key.
    pub(crate) fn name(&self) -> &'static str {
        self.key.rsplit('.').next().unwrap_or_default()
    }
}

/// Declares the settings of a feature. A row is `FIELD: TYPE = SHAPE KEY, DEFAULT;` with the default as a
/// function of the profile. It is omitted if the setting has no default or one that depends on other
/// settings.
///
/// It creates the struct of the feature, its merge, its defaults and its table from the same rows.
macro_rules! settings {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$doc:meta])* $field:ident: $holder:ident<$type:ty> = $shape:ident $key:literal $(, $default:expr)?;)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct $name {
            $($(#[$doc])* pub $field: $holder<$type>,)*
        }

        impl $name {
            /// The settings of this feature, in the order of coracle.toml(5).
            pub(in crate::config) const SETTINGS: &[$crate::config::setting::Setting] = {
                use $crate::config::setting::{Setting, Shape};
                &[$(Setting { key: $key, shape: Shape::$shape }),*]
            };

            /// Merges these settings over those of `below`, which it takes.
            pub(in crate::config) fn merge(&mut self, below: &mut Self) {
                $(self.$field.merge(&mut below.$field);)*
            }

            /// Sets the defaults of the rows.
            #[allow(unused_variables, reason = "some features have no defaults")]
            pub(in crate::config) fn fill_defaults(&mut self, profile: $crate::config::profile::Profile) {
                $($(self.$field.fill_for(profile, $default);)?)*
            }

            /// Returns the setting `key`, if it belongs to this feature.
            pub(in crate::config) fn cell(&self, key: &str) -> Option<&dyn $crate::config::setting::SettingCell> {
                match key {
                    $($key => Some(&self.$field),)*
                    _ => None,
                }
            }

            /// Returns the setting `key` for changes, if it belongs to this feature.
            pub(in crate::config) fn cell_mut(
                &mut self,
                key: &str,
            ) -> Option<&mut dyn $crate::config::setting::SettingCell> {
                match key {
                    $($key => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

pub(super) use settings;
