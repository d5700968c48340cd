//! The words of an `ExecStart=` that runs systemd-nspawn(1). Called by `unit`.

use super::super::super::ini;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::machine::unit_name::ServiceTemplate;
use std::path::Path;

/// The characters before a command that change how it is executed (systemd.service(5)); none of them changes
/// its arguments. `@` would.
const PREFIXES: [char; 5] = ['-', ':', '+', '!', '|'];
/// The options of a command, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OptionWords {
    /// The options that are settings of a machine.
    pub(super) options: Vec<String>,
    /// The values of `--property=`.
    pub(super) properties: Vec<String>,
}

/// Splits a command into its words and expands its specifiers. Returns the arguments of systemd-nspawn(1).
///
/// # Errors
/// Another program, variables of the environment, or a specifier that is not about the unit.
pub(super) fn words(command: &str, name: &Name) -> Result<Vec<String>> {
    if command.contains('\\') {
        return Err(Error::new("it contains a backslash"));
    }
    let words = ini::words(command.trim_start_matches(PREFIXES))?;
    let words: Vec<String> = words.iter().map(|word| expanded(word, name)).collect::<Result<_>>()?;
    let (program, arguments) = words.split_first().ok_or_else(|| Error::new("it is empty"))?;
    if Path::new(program).file_name().is_none_or(|program| program != "systemd-nspawn") {
        return Err(Error::new(format!("it runs '{program}'")));
    }
    Ok(arguments.to_vec())
}

/// Expands the specifiers of a word (systemd.unit(5)).
fn expanded(word: &str, name: &Name) -> Result<String> {
    let unit = ServiceTemplate::Nspawn.service(name);
    let mut expanded = String::new();
    let mut letters = word.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '%' => match letters.next() {
                Some('%') => expanded.push('%'),
                Some('i' | 'I') => expanded.push_str(name.as_str()),
                Some('n') => expanded.push_str(&unit),
                Some('N') => expanded.push_str(unit.trim_end_matches(".service")),
                Some('p' | 'P') => expanded.push_str("systemd-nspawn"),
                other => {
                    let other = other.map_or_else(String::new, String::from);
                    return Err(Error::new(format!("it has the specifier '%{other}'")));
                }
            },
            '$' if letters.clone().next() == Some('$') => {
                letters.next();
                expanded.push('$');
            }
            '$' => return Err(Error::new("it has variables of the environment")),
            letter => expanded.push(letter),
        }
    }
    Ok(expanded)
}

/// Sorts the options: properties of the unit are no settings of a machine.
pub(super) fn sort(words: Vec<String>) -> OptionWords {
    let mut sorted = OptionWords::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("--property") {
            Some("") => sorted.properties.extend(words.next()),
            Some(rest) if rest.starts_with('=') => sorted.properties.push(rest[1..].to_owned()),
            _ if word == "--" => {
                sorted.options.push(word);
                sorted.options.extend(words.by_ref());
            }
            _ => sorted.options.push(word),
        }
    }
    sorted
}
