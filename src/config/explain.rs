//! The effective settings of a machine with their origins. Called by `cli` for `config NAME` and by
//! `snapshot`.

use super::layer::{Layer, Origin, Shape, settings as all_settings};

/// One line of `config --explain`: a value of a setting with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SettingLine {
    /// The key, section and key joined by dots.
    pub(crate) key: &'static str,
    /// The value as written in a definition; `None` if the setting is not set.
    pub(crate) value: Option<String>,
    /// The origin of the value.
    pub(crate) origin: Origin,
}

/// Returns the settings of a definition in order, one line for each value. Settings that a definition cannot
/// contain are included if a .nspawn file sets them.
pub(crate) fn lines(settings: &Layer) -> Vec<SettingLine> {
    let mut lines = Vec::new();
    for setting in all_settings() {
        let mut values = settings.lines(setting);
        if setting.shape == Shape::FlagOnly {
            values.retain(|value| matches!(value.origin, Origin::File { .. }));
            if values.is_empty() {
                continue;
            }
        }
        if values.is_empty() && setting.is_of_build() {
            // No machine has it.
            continue;
        }
        if values.is_empty() {
            lines.push(SettingLine { key: setting.key, value: None, origin: Origin::Default });
        }
        lines.extend(values.into_iter().map(|line| SettingLine {
            key: setting.key,
            value: Some(line.value),
            origin: line.origin,
        }));
    }
    lines
}

/// Returns the keys of all settings.
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    all_settings().map(|setting| setting.key)
}

/// Returns the first file and line of each setting of `keys` that a file sets.
pub(super) fn origins(settings: &Layer, keys: &[&str]) -> Vec<(&'static str, Origin)> {
    let named = all_settings().filter(|setting| keys.contains(&setting.key));
    let set = |setting: &'static super::layer::Setting| {
        let mut origins = settings.lines(setting).into_iter().map(|line| line.origin);
        Some((
            setting.key,
            origins.find(|origin| matches!(origin, Origin::File { .. } | Origin::Bundle { .. }))?,
        ))
    };
    named.filter_map(set).collect()
}
