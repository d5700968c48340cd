//! `coracle config NAME`: the settings of a machine, as a definition or with their origins.

use super::Config;
use super::output::{Align, Legend, json, table, text};
use crate::config::explain::{SettingLine, lines};
use crate::config::{Origin, machine};
use crate::error::Result;
use crate::paths::Paths;
use serde_json::{Value, json as object};

/// Prints the settings of a machine.
///
/// # Errors
/// There is no such machine, or its definition has problems.
pub fn run(paths: &Paths, wanted: &Config) -> Result<()> {
    let resolved = machine(paths, &wanted.name)?;
    let lines = lines(&resolved.settings);
    if wanted.json {
        return json(&lines.iter().map(as_json).collect::<Vec<_>>());
    }
    if wanted.explain { text(&explained(&lines)) } else { text(&definition(&lines)) }
}

/// One row for each value, with its origin.
fn explained(lines: &[SettingLine]) -> String {
    let columns = [("SETTING", Align::Left), ("VALUE", Align::Left), ("ORIGIN", Align::Left)];
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let value = line.value.clone().unwrap_or_else(|| "-".to_owned());
            vec![line.key.to_owned(), value, line.origin.to_string()]
        })
        .collect();
    table(&columns, &rows, Legend::Shown)
}

/// The settings as a definition that means the same.
fn definition(lines: &[SettingLine]) -> String {
    use crate::config::layer::{Setting, Shape};
    let mut shown = String::new();
    for group in lines.chunk_by(|one, next| one.key == next.key) {
        let values: Vec<&str> = group.iter().filter_map(|line| line.value.as_deref()).collect();
        let (Some(first), Some(setting)) = (group.first(), Setting::find(group[0].key)) else { continue };
        for value in &values {
            match setting.shape {
                Shape::Single | Shape::FlagOnly => shown.push_str(&format!("{} = {value}\n", first.key)),
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

/// One value as JSON: `key`, `value`, `origin` (`default`, `flag` or `file`), and `file` and
/// `line` where it was said in a file.
fn as_json(line: &SettingLine) -> Value {
    let value = line.value.as_deref().and_then(|text| {
        let document = if line.key == "environment" { text.to_owned() } else { format!("value = {text}") };
        let table: toml::Table = document.parse().ok()?;
        if line.key == "environment" {
            serde_json::to_value(table).ok()
        } else {
            serde_json::to_value(&table["value"]).ok()
        }
    });
    match &line.origin {
        Origin::Default => object!({ "key": line.key, "value": value, "origin": "default" }),
        Origin::Flag(flag) => object!({ "key": line.key, "value": value, "origin": "flag", "flag": flag }),
        Origin::File { path, line: at } => {
            object!({ "key": line.key, "value": value, "origin": "file", "file": path, "line": at })
        }
    }
}
