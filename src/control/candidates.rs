//! Candidates for the completions of a shell: names of machines by their state, keys of settings, properties.
//! Called by `names` at each press of the tab key: reads file names and records only.

use super::{names, show};
use crate::config::layer::definition_settings;
use crate::error::Result;
use crate::paths::Paths;
use crate::state::record::Record;
use std::collections::BTreeSet;

/// Verbs on running machines.
const ON_RUNNING: [&str; 15] = [
    "attach",
    "exec",
    "freeze",
    "inspect",
    "kill",
    "login",
    "poweroff",
    "reboot",
    "shell",
    "stats",
    "stop",
    "terminate",
    "thaw",
    "top",
    "unbind",
];

/// Verbs on machines that are not running.
const ON_STOPPED: [&str; 2] = ["start", "rename"];

/// Returns the candidates for the word after these ones, a verb and its arguments.
///
/// # Errors
/// A directory of definitions that cannot be read.
pub(crate) fn after(paths: &Paths, words: &[String]) -> Result<Vec<String>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["show", .., "-p" | "--property"] => return show::keys(),
        ["set", _, ..] => return Ok(settings()),
        _ => {}
    }
    let verb = words.first().copied().unwrap_or_default();
    let running: BTreeSet<String> =
        Record::all(paths).into_iter().filter(Record::is_alive).map(|record| record.name.into()).collect();
    let candidates = if ON_RUNNING.contains(&verb) {
        running
    } else if ON_STOPPED.contains(&verb) {
        names(paths)?.difference(&running).cloned().collect()
    } else {
        names(paths)?
    };
    Ok(candidates.into_iter().filter(|name| !words.contains(&name.as_str())).collect())
}

/// Returns the keys of settings, each by its last part, with the sign of an assignment.
fn settings() -> Vec<String> {
    let names: BTreeSet<String> =
        definition_settings().map(|setting| format!("{}=", setting.name())).collect();
    names.into_iter().collect()
}
