//! `coracle show`: all properties of a machine for programs, as `KEY=VALUE` lines or JSON.

use super::list::{self, Include, MachineSummary};
use super::running;
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use serde_json::{Map, Value};
use std::io::Write;

/// The properties of a machine in a fixed order: those of its row in the list, and of its record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Properties(Vec<(String, Value)>);

/// Internal properties of records.
const PRIVATE: [&str; 7] =
    ["files", "firewall", "interfaces", "hosts", "cgroup-is-ours", "supervisor-start", "program"];

/// Returns the properties of a machine, restricted to `only` unless that is empty. A stopped machine has its
/// name, state and unit.
///
/// # Errors
/// The machine does not exist, or a property is unknown.
pub(crate) fn properties(paths: &Paths, name: &Name, only: &[String]) -> Result<Properties> {
    let error = match running(paths, name) {
        Ok(record) => {
            let mut all = of_record(paths, &record)?;
            all.extend(as_map(&MachineSummary::of_record_and_guest(paths, &record))?);
            return select(all, only);
        }
        Err(error) => error,
    };
    let row = list::rows(paths, Include::Defined)?.into_iter().find(|row| row.name == name.as_str());
    let mut all = of_record(paths, &Record::new(name.clone()))?;
    all.values_mut().for_each(|value| *value = Value::Null);
    all.extend(as_map(&row.ok_or(error)?)?);
    select(all, only)
}

/// Returns the names of all properties.
///
/// # Errors
/// The serialisation fails.
pub(crate) fn keys() -> Result<Vec<String>> {
    let all = select(of_record(&Paths::default(), &Record::new(Name::new("x")?))?, &[])?;
    Ok(all.0.into_iter().map(|(key, _)| key).collect())
}

/// Returns the properties of a record and its row.
fn of_record(paths: &Paths, record: &Record) -> Result<Map<String, Value>> {
    let mut all = as_map(record)?;
    let ports = record.ports().iter().map(|port| Value::String(port.to_string()));
    all.insert("ports".to_owned(), ports.collect());
    all.extend(as_map(&MachineSummary::of_record(paths, record))?);
    Ok(all)
}

/// Selects properties without the internal ones.
fn select(mut all: Map<String, Value>, only: &[String]) -> Result<Properties> {
    all.retain(|key, _| !PRIVATE.contains(&key.as_str()));
    if only.is_empty() {
        return Ok(Properties(all.into_iter().collect()));
    }
    let pick = |key: &String| match all.get(key) {
        Some(value) => Ok((key.clone(), value.clone())),
        None => Err(Error::usage(format!("unknown property '{key}'"))
            .with_hint(format!("the properties are {}", all.keys().cloned().collect::<Vec<_>>().join(", ")))),
    };
    Ok(Properties(only.iter().map(pick).collect::<Result<_>>()?))
}

impl Properties {
    /// Writes a line per property. Lists are joined by spaces; unknown values are empty.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<()> {
        let text: String = self.0.iter().map(|(key, value)| format!("{key}={}\n", plain(value))).collect();
        out.write_all(text.as_bytes()).context(|| "cannot write the properties".to_owned())
    }

    /// Returns the properties as one JSON object.
    pub(crate) fn to_json(&self) -> Value {
        Value::Object(self.0.iter().cloned().collect())
    }
}

/// Returns a value as the object of its serialised form.
fn as_map(value: &impl serde::Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(Error::new(format!("cannot serialise the machine: {error}"))),
    }
}

/// Formats a value on one line.
fn plain(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    crate::host::systemd::journal::printable(text.as_bytes()).replace('\n', "\\x0a")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_lines_or_an_object() {
        let record = Record {
            addresses: vec!["10.177.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            ..Record::new(Name::new("web").unwrap())
        };
        let text = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|key| (*key).to_owned()).collect();
            let mut out = Vec::new();
            select(of_record(&Paths::default(), &record).unwrap(), &only).unwrap().write(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            text(&["name", "addresses", "leader"]),
            "name=web\naddresses=10.177.0.2 fd00::2\nleader=\n"
        );
        assert!(text(&[]).contains("state=dead\n") && !text(&[]).contains("files="));
        let error = select(of_record(&Paths::default(), &record).unwrap(), &["nonsense".into()]).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.hint().unwrap().contains("machine-id"));
        assert_eq!(
            select(of_record(&Paths::default(), &record).unwrap(), &[]).unwrap().to_json()["name"],
            "web"
        );
    }
}
