//! The text of a migrated definition: sections in the order of coracle.toml(5), each value with its origin as
//! a comment, and a checksum by which a later call recognises an unchanged file.

use super::{DocumentValue, NspawnUnit};
use crate::config::layer::{Setting, Shape};
use crate::machine::hash::siphash;
use crate::machine::name::Name;
use crate::paths::Paths;
use std::fmt::Write as _;
use std::path::Path;

/// Key of the checksum. It detects edits, not forgery.
const KEY: u128 = 0x0c3f_75a1_d6b8_4e02_93c7_1fd5_8e6a_b429;
/// The begin of its line.
const CHECKSUM: &str = "# checksum: ";

/// The text of a definition.
#[derive(Debug)]
pub(crate) struct Document {
    /// The text.
    pub(crate) text: String,
    /// The number of its values.
    pub(crate) settings: usize,
}

/// A definition under construction.
pub(super) struct Draft {
    head: String,
    /// Keys without a section, which precede all sections.
    sections: Vec<(String, String)>,
    settings: usize,
}

/// Begins a definition with its sources.
pub(super) fn begin(paths: &Paths, name: &Name, file: Option<&Path>, unit: &NspawnUnit) -> Draft {
    let mut head = format!("# Machine '{name}' of systemd-nspawn, by 'coracle migrate' from\n");
    for file in file.into_iter().chain(unit.files()) {
        // Writing to a string does not fail.
        let _ = writeln!(head, "#   {}", comment(&paths.strip(file).display().to_string()));
    }
    Draft { head, sections: Vec::new(), settings: 0 }
}

impl Draft {
    /// Adds a setting with its values.
    pub(super) fn add(&mut self, setting: &Setting, values: &[DocumentValue]) {
        if values.is_empty() {
            return;
        }
        self.settings += values.len();
        let (section, key) = match (setting.shape, setting.key.split_once('.')) {
            (Shape::Variables, _) => (setting.key, ""),
            (Shape::Tables, _) => ("", setting.key),
            (_, Some((section, key))) => (section, key),
            (_, None) => ("", setting.key),
        };
        let lines = lines(setting.shape, key, values);
        match self.sections.iter_mut().find(|(other, _)| other == section) {
            Some((_, text)) => text.push_str(&lines),
            None => self.sections.push((section.to_owned(), lines)),
        }
    }

    /// Returns the text.
    pub(super) fn finish(mut self, name: &Name) -> Document {
        // A key without a section would belong to the section before it.
        self.sections.sort_by_key(|(section, _)| !section.is_empty());
        let mut body = String::new();
        for (section, lines) in &self.sections {
            let title = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
            let _ = write!(body, "\n{title}{lines}");
        }
        let Self { head, settings, .. } = self;
        let back =
            format!("# 'coracle migrate --back {name}' removes this file as long as it is unchanged.\n");
        let text = format!("{head}{back}{body}");
        let sum = siphash(KEY, &[text.as_bytes()]);
        Document { text: format!("{text}\n{CHECKSUM}{sum:016x}\n"), settings }
    }
}

/// Returns the lines of a setting.
fn lines(shape: Shape, key: &str, values: &[DocumentValue]) -> String {
    let with_origin = |line: String, origin: &str| match origin {
        "" => format!("{line}\n"),
        origin => format!("{line:<40}  # {}\n", comment(origin)),
    };
    match shape {
        Shape::List | Shape::SingleOrList | Shape::Tables => {
            let items = values.iter().map(|(value, origin)| with_origin(format!("    {value},"), origin));
            format!("{key} = [\n{}]\n", items.collect::<String>())
        }
        // The value of a table with arbitrary names contains the name.
        Shape::Variables => values.iter().map(|(value, origin)| with_origin(value.clone(), origin)).collect(),
        Shape::Single | Shape::FlagOnly => {
            values.iter().map(|(value, origin)| with_origin(format!("{key} = {value}"), origin)).collect()
        }
    }
}

/// Returns text for a comment: a file name may contain a line break.
fn comment(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// Returns whether a text is that of a migrated definition, without a change.
pub(crate) fn is_unchanged(text: &str) -> bool {
    let Some((body, sum)) = text.rsplit_once(&format!("\n{CHECKSUM}")) else { return false };
    u64::from_str_radix(sum.trim_end(), 16).is_ok_and(|sum| sum == siphash(KEY, &[body.as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_definition_is_recognised() {
        let name = Name::new("web").unwrap();
        let paths = Paths::below("/");
        let mut draft = begin(&paths, &name, None, &NspawnUnit::default());
        let add = |draft: &mut Draft, key: &str, value: &str| {
            draft.add(Setting::find(key).unwrap(), &[(value.to_owned(), "a\nb".to_owned())]);
        };
        add(&mut draft, "boot.machinectl", "true");
        add(&mut draft, "network.ports", "\"80\"");
        add(&mut draft, "environment", "A = \"b\"");
        add(&mut draft, "mount", "{ type = \"tmpfs\", target = \"/x\" }");
        let Document { text, settings } = draft.finish(&name);
        assert_eq!(settings, 4);
        assert!(text.parse::<toml::Table>().unwrap().contains_key("mount"), "{text}");
        assert!(is_unchanged(&text));
        for changed in
            [text.replace("true", "false"), format!("{text}#\n"), text[1..].to_owned(), String::new()]
        {
            assert!(!is_unchanged(&changed), "{changed}");
        }
    }
}
