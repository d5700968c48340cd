//! The definition with which a machine was started, stored in its state directory and compared with the
//! current one. Written by `run`, read by `cli`.

use super::explain;
use super::layer::{Layer, Setting};
use crate::error::{Context, Error, Result};
use crate::machine::hash::siphash;
use crate::machine::name::Name;
use crate::paths::Paths;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Values by key, as written in a definition.
pub(crate) type Values = BTreeMap<String, Vec<String>>;

/// A changed setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangedSetting {
    /// Its key.
    pub(crate) key: String,
    /// The values with which the machine was started.
    pub(crate) before: Vec<String>,
    /// The values of its current definition.
    pub(crate) after: Vec<String>,
}

fn file(paths: &Paths, name: &Name) -> PathBuf {
    paths.machine(name).join("definition.json")
}

/// Returns the values of a definition.
pub(crate) fn values(settings: &Layer) -> Values {
    let mut values = Values::new();
    for line in explain::lines(settings) {
        let is_secret = Setting::find(line.key).is_some_and(Setting::is_secret);
        let value = line.value.map(|value| if is_secret { digest(&value) } else { value });
        values.entry(line.key.to_owned()).or_default().extend(value);
    }
    values
}

/// Returns a text that differs for different secrets, without the secret.
fn digest(secret: &str) -> String {
    /// A constant: values of two boots are compared.
    const KEY: u128 = 0x5f0e_83a1_c9d2_4b76_a1e4_90d7_3c6b_28f5;
    format!("({:016x})", siphash(KEY, &[secret.as_bytes()]))
}

/// Stores the values with which a machine was started, readable by root only: the environment of a definition
/// may contain secrets.
///
/// # Errors
/// Any error of open(2) or write(2).
pub(crate) fn write(paths: &Paths, name: &Name, values: &Values) -> Result<()> {
    let file = file(paths, name);
    let text = serde_json::to_vec(values).map_err(|error| Error::new(error.to_string()))?;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&file)
        .and_then(|mut open| open.write_all(&text))
        .context(|| format!("cannot write '{}'", file.display()))
}

/// Returns the values with which a machine was started; `None` if they were not stored.
pub(crate) fn read(paths: &Paths, name: &Name) -> Option<Values> {
    serde_json::from_slice(&std::fs::read(file(paths, name)).ok()?).ok()
}

/// Returns the target of a mount from its value in [`Values`].
pub(crate) fn mount_target(value: &str) -> Option<PathBuf> {
    let table: toml::Table = format!("mount = {value}").parse().ok()?;
    Some(table.get("mount")?.get("target")?.as_str()?.into())
}

/// Returns all settings that differ.
pub(crate) fn differences(before: &Values, after: &Values) -> Vec<ChangedSetting> {
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let of = |values: &Values, key: &String| values.get(key).cloned().unwrap_or_default();
    let each = keys.into_iter().map(|key| ChangedSetting {
        key: key.clone(),
        before: of(before, key),
        after: of(after, key),
    });
    each.filter(|one| one.before != one.after).collect()
}
