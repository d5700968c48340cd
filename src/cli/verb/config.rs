//! `coracle config`.

use super::VerbResult;
use crate::cli::output::{self, Align, Legend};
use crate::config::explain::{SettingLine, lines};
use crate::config::layer::{Setting, Shape};
use crate::config::{self, Origin};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use serde_json::{Value, json};

/// Show the settings of a machine
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// Show the origin of each value
    #[arg(long)]
    explain: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ConfigArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let resolved = match config::machine(paths, &self.name) {
            // The origins lead to the mistake.
            Err(error) if self.explain && !self.json && config::exists(paths, &self.name) => {
                output::text(&explained(&lines(&config::settings(paths, &self.name)?)))?;
                return Err(error.into());
            }
            resolved => resolved?,
        };
        resolved.ignored.iter().for_each(|problem| log::warn!("{problem}"));
        let lines = lines(&resolved.settings);
        match (self.json, self.explain) {
            (true, _) => output::json(&lines.iter().map(as_json).collect::<Vec<_>>())?,
            (false, true) => output::text(&explained(&lines))?,
            (false, false) => output::text(&definition(&lines))?,
        }
        Ok(0)
    }
}

/// Returns a table with a row per value and its origin.
fn explained(lines: &[SettingLine]) -> String {
    let columns = [("SETTING", Align::Left), ("VALUE", Align::Left), ("ORIGIN", Align::Left)];
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let value = shown(line).unwrap_or_else(|| "-".to_owned());
            vec![line.key.to_owned(), value, line.origin.to_string()]
        })
        .collect();
    output::table(&columns, &rows, Legend::Shown)
}

/// Returns a value without its content if that is secret.
fn shown(line: &SettingLine) -> Option<String> {
    let value = line.value.clone()?;
    if Setting::find(line.key).is_some_and(Setting::is_secret) {
        return value.split_once(" = ").map(|(name, _)| format!("{name} = \"(hidden)\""));
    }
    Some(value)
}

/// Returns an equivalent definition.
fn definition(lines: &[SettingLine]) -> String {
    let mut shown = String::new();
    for group in lines.chunk_by(|one, next| one.key == next.key) {
        let values: Vec<&str> = group.iter().filter_map(|line| line.value.as_deref()).collect();
        let (Some(first), Some(setting)) = (group.first(), Setting::find(group[0].key)) else { continue };
        for value in &values {
            match setting.shape {
                Shape::Single => shown.push_str(&format!("{} = {value}\n", first.key)),
                // A definition has no such key.
                Shape::FlagOnly => shown.push_str(&format!("# {} = {value}\n", first.key)),
                Shape::Variables => shown.push_str(&format!("{}.{value}\n", first.key)),
                Shape::List | Shape::SingleOrList | Shape::Tables => {}
            }
        }
        if matches!(setting.shape, Shape::List | Shape::SingleOrList | Shape::Tables) && !values.is_empty() {
            shown.push_str(&format!("{} = [{}]\n", first.key, values.join(", ")));
        }
    }
    shown
}

/// Returns a value as JSON: `key`, `value`, `origin` (`default`, `flag` or `file`), and `file` and `line` for
/// a value of a file.
fn as_json(line: &SettingLine) -> Value {
    let value = shown(line).and_then(|text| {
        let is_entry = Setting::find(line.key).is_some_and(|setting| setting.shape == Shape::Variables);
        let document = if is_entry { text } else { format!("value = {text}") };
        let table: toml::Table = document.parse().ok()?;
        if is_entry { serde_json::to_value(table).ok() } else { serde_json::to_value(&table["value"]).ok() }
    });
    match &line.origin {
        // Definitions have no bundle.
        Origin::Bundle { .. } | Origin::Default => {
            json!({ "key": line.key, "value": value, "origin": "default" })
        }
        Origin::Flag(flag) => json!({ "key": line.key, "value": value, "origin": "flag", "flag": flag }),
        Origin::File { path, line: at } => {
            json!({ "key": line.key, "value": value, "origin": "file", "file": path, "line": at })
        }
    }
}
