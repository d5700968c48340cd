//! A layer: the settings of one source, each value with its origin. Created by `toml` and the command line,
//! merged by `definition_files`, turned into a machine by `resolve`. It has no defaults: an omitted setting
//! is empty here.

use super::boot::BootSettings;
use super::bound_users::BoundUsersSettings;
use super::build::settings::BuildSettings;
use super::command::CommandSettings;
use super::console::ConsoleSettings;
use super::credentials::CredentialsSettings;
use super::dependencies::DependencySettings;
use super::health::HealthSettings;
use super::identity::IdentitySettings;
use super::journal::JournalSettings;
use super::mounts::MountsSettings;
use super::network::NetworkSettings;
use super::profile::Profile;
use super::resources::ResourcesSettings;
use super::root::RootSettings;
use super::security::SecuritySettings;
use super::setting::SettingCell;
use super::switches::SwitchesSettings;
use super::unit::UnitSettings;
use super::users::UsersSettings;
use super::values::RawValue;
use crate::error::{Error, Result};

use std::ops::{Deref, DerefMut};

pub use super::setting::{Origin, Setting, Shape, Sourced};

/// The settings of one source, by feature; each is optional. They are on the heap: a layer is moved often.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layer(Box<Features>);

impl Deref for Layer {
    type Target = Features;

    fn deref(&self) -> &Features {
        &self.0
    }
}

impl DerefMut for Layer {
    fn deref_mut(&mut self) -> &mut Features {
        &mut self.0
    }
}

/// Creates [`Features`], their merge and the table of all settings from the list of features.
macro_rules! features {
    ($($(#[$doc:meta])* $feature:ident: $type:ident;)*) => {
        /// The settings of a layer, by feature.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct Features {
            $($(#[$doc])* pub $feature: $type,)*
        }

        const FEATURES: &[&[Setting]] = &[$($type::SETTINGS),*];

        impl Layer {
            /// Merges this layer over `below`.
            #[must_use]
            pub(crate) fn over(mut self, mut below: Self) -> Self {
                if self.root.has_source() {
                    below.root.clear_source();
                }
                $(self.0.$feature.merge(&mut below.0.$feature);)*
                self
            }

            /// Sets the defaults that depend on no other setting.
            pub(super) fn fill_defaults(&mut self, profile: Profile) {
                $(self.0.$feature.fill_defaults(profile);)*
            }

            fn cell(&self, key: &str) -> Option<&dyn SettingCell> {
                $(if let Some(cell) = self.0.$feature.cell(key) {
                    return Some(cell);
                })*
                None
            }

            fn cell_mut(&mut self, key: &str) -> Option<&mut dyn SettingCell> {
                $(if let Some(cell) = self.0.$feature.cell_mut(key) {
                    return Some(cell);
                })*
                None
            }
        }
    };
}

features! {
    /// `[root]`.
    root: RootSettings;
    /// `[boot]`.
    boot: BootSettings;
    /// `[users]`.
    users: UsersSettings;
    /// `[users]`, users of the host.
    bound_users: BoundUsersSettings;
    /// `[network]`.
    network: NetworkSettings;
    /// `[[mount]]`.
    mounts: MountsSettings;
    /// `[resources]`.
    resources: ResourcesSettings;
    /// `[security]`.
    security: SecuritySettings;
    /// `[environment]` and the command.
    command: CommandSettings;
    /// `[credentials]`.
    credentials: CredentialsSettings;
    /// `[identity]` and the name.
    identity: IdentitySettings;
    /// `[journal]`.
    journal: JournalSettings;
    /// `[unit]`.
    dependencies: DependencySettings;
    /// `[health]`.
    health: HealthSettings;
    /// `[build]`.
    build: BuildSettings;
    /// The console.
    console: ConsoleSettings;
    /// The unit and machined.
    unit: UnitSettings;
    /// Variables of the caller.
    switches: SwitchesSettings;
}

/// Iterates over all settings, in the order of coracle.toml(5).
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    FEATURES.iter().copied().flatten()
}

/// Iterates over the settings that a definition may contain.
pub fn definition_settings() -> impl Iterator<Item = &'static Setting> {
    settings().filter(|setting| setting.shape != Shape::FlagOnly)
}

impl Setting {
    /// Returns the setting `key`.
    pub(crate) fn find(key: &str) -> Option<&'static Self> {
        settings().find(|setting| setting.key == key)
    }
}

impl Layer {
    /// Parses `raw` as the value of `setting` and sets it; a list gets a further value.
    ///
    /// # Errors
    /// The value is invalid.
    pub(crate) fn set(&mut self, setting: &Setting, raw: &RawValue, origin: Origin) -> Result<()> {
        match self.cell_mut(setting.key) {
            Some(cell) => cell.set_raw(raw, origin),
            None => Err(Error::new(format!("unknown setting '{}'", setting.key))),
        }
    }

    /// Parses the entry `name` of the table `setting` and sets it.
    ///
    /// # Errors
    /// The name or the value is invalid.
    pub(crate) fn set_entry(
        &mut self,
        setting: &Setting,
        name: &str,
        raw: &RawValue,
        origin: Origin,
    ) -> Result<()> {
        match self.cell_mut(setting.key) {
            Some(cell) => cell.set_entry(name, raw, origin),
            None => Err(Error::new(format!("unknown setting '{}'", setting.key))),
        }
    }

    /// Removes the values of `setting`; those of a list in the layers below too.
    pub(crate) fn reset(&mut self, setting: &Setting) {
        if let Some(cell) = self.cell_mut(setting.key) {
            cell.clear();
        }
    }

    /// Removes the values of `setting` from this layer.
    pub(super) fn unset(&mut self, setting: &Setting) {
        if let Some(cell) = self.cell_mut(setting.key) {
            cell.unset();
        }
    }

    /// Returns whether this layer has a value of `setting`.
    pub(super) fn is_set(&self, setting: &Setting) -> bool {
        self.cell(setting.key).is_some_and(SettingCell::is_set)
    }

    /// Returns the values of `setting` as a definition contains them.
    pub fn lines(&self, setting: &Setting) -> Vec<Sourced<String>> {
        self.cell(setting.key).map(SettingCell::lines).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::Argument;
    use super::super::values::Value;
    use super::*;

    fn argument(text: &str) -> Layer {
        let mut layer = Layer::default();
        layer.boot.arguments.push(Argument::read(&RawValue::Text(text)).unwrap(), Origin::Default);
        layer
    }

    #[test]
    fn upper_layers_replace_values_and_append_to_lists() {
        let mut below = argument("a");
        below.root.read_only.set(true, Origin::Flag("--read-only"));
        let mut above = argument("b");
        above.root.read_only.set(false, Origin::Default);
        let merged = above.clone().over(below.clone());
        assert_eq!(merged.root.read_only.value(), Some(&false));
        assert_eq!(merged.boot.arguments.sourced().len(), 2);
        above.boot.arguments.reset();
        assert!(above.over(below).boot.arguments.sourced().is_empty());
    }

    #[test]
    fn keys_are_unique() {
        let keys: Vec<&str> = settings().map(|setting| setting.key).collect();
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{key}");
        }
    }
}
