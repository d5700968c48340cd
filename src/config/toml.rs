//! Parses a definition into a layer and collects all errors. Called by `definition_files`; it reads no file
//! and has no defaults.
//!
//! It walks the tree of values with their positions by the table of settings instead of deserializing it,
//! because serde stops at the first error.

mod mounts;

use super::layer::{Layer, Origin, Setting, Shape, definition_settings};
use super::problem::{Problem, SourceText};
use super::values::{RawValue, ticked};
use crate::error::{Error, nearest};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// The maximum number of reported problems.
const MAX_PROBLEMS: usize = 100;

/// Parses the definition `text` of `file`. Returns its layer and all problems, ordered by position.
pub fn read(file: &Path, text: &str) -> (Layer, Vec<Problem>) {
    let source = SourceText::new(text);
    let mut reader = TomlReader { file, source: &source, layer: Layer::default(), errors: Vec::new() };
    let (document, errors) = DeTable::parse_recoverable(text);
    reader.table("", document.get_ref());
    let mut errors: Vec<SpannedError> = errors.iter().map(|error| syntax(error, text.len())).collect();
    let broken: BTreeSet<usize> = errors.iter().map(|(span, _)| source.line(span.start)).collect();
    // Further errors on a line with a syntax error are consequences of it.
    errors.extend(reader.errors.into_iter().filter(|(span, _)| !broken.contains(&source.line(span.start))));
    errors.sort_by_key(|(span, _)| span.start);
    let mut problems: Vec<Problem> = errors
        .iter()
        .take(MAX_PROBLEMS)
        .map(|(span, error)| Problem::new(Some(file), error).at(source.position(span.clone())))
        .collect();
    if errors.len() > MAX_PROBLEMS {
        let more = Error::new(format!("{} more problems", errors.len() - MAX_PROBLEMS));
        problems.push(Problem::new(Some(file), &more));
    }
    (reader.layer, problems)
}

/// An error and the bytes that cause it.
type SpannedError = (Range<usize>, Error);

fn syntax(error: &toml::de::Error, end: usize) -> SpannedError {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    (error.span().unwrap_or(end..end), Error::new(message))
}

/// A key and its value, both with their positions.
type TomlEntry<'a> = (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>);

/// A walk over one file.
struct TomlReader<'a> {
    file: &'a Path,
    source: &'a SourceText<'a>,
    layer: Layer,
    errors: Vec<SpannedError>,
}

impl TomlReader<'_> {
    /// Adds an error at the bytes `span`.
    fn report(&mut self, span: Range<usize>, error: Error) {
        self.errors.push((span, error));
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        Origin::File { path: self.file.to_owned(), line: self.source.line(span.start) }
    }

    /// Parses the table at `path`, a key with dots, empty for the document.
    fn table(&mut self, path: &str, table: &DeTable) {
        for (key, value) in table {
            let full = match path {
                "" => key.get_ref().to_string(),
                _ => format!("{path}.{}", key.get_ref()),
            };
            let setting = Setting::find(&full).filter(|setting| setting.shape != Shape::FlagOnly);
            match setting {
                Some(setting) => self.setting(setting, (key, value)),
                None if definition_settings().any(|setting| is_below(setting, &full)) => {
                    match value.get_ref() {
                        DeValue::Table(inner) => self.table(&full, inner),
                        _ => self.report(value.span(), wanted_table(&full, value.get_ref())),
                    }
                }
                None => self.unknown(path, key),
            }
        }
    }

    fn unknown(&mut self, path: &str, key: &Spanned<DeString>) {
        let name = key.get_ref().as_ref();
        let location = if path.is_empty() { String::new() } else { format!(" in [{path}]") };
        let error = Error::new(format!("unknown key {}{location}", ticked(name)));
        let error = match suggestion(path, name) {
            Some(hint) => error.with_hint(hint),
            None => error.with_hint(format!("known keys: {}", siblings(path).join(", "))),
        };
        self.report(key.span(), error);
    }

    fn setting(&mut self, setting: &Setting, (key, value): TomlEntry) {
        match (setting.shape, value.get_ref()) {
            (Shape::List | Shape::SingleOrList | Shape::Tables, DeValue::Array(items))
                if items.is_empty() =>
            {
                self.layer.reset(setting);
            }
            (Shape::List | Shape::SingleOrList, DeValue::Array(items)) => {
                for item in items {
                    self.set(setting, item);
                }
            }
            (Shape::Tables, DeValue::Array(items)) => {
                for item in items {
                    self.mount(item);
                }
            }
            (Shape::Variables, DeValue::Table(variables)) => self.variables(setting, variables),
            // A single value replaces the list of lower layers.
            (Shape::SingleOrList, _) => {
                self.layer.reset(setting);
                self.set(setting, value);
            }
            (Shape::Single | Shape::FlagOnly, _) => self.set(setting, value),
            (Shape::List, other) => {
                let error = raw_value(other).expected(&format!("a list for '{}'", key.get_ref()));
                self.report(value.span(), error.with_hint("write the values between '[' and ']'"));
            }
            (Shape::Tables, other) => {
                let error = raw_value(other).expected("a list of tables");
                self.report(value.span(), error.with_hint("write the line [[mount]] before each mount"));
            }
            (Shape::Variables, other) => self.report(value.span(), wanted_table(setting.key, other)),
        }
    }

    fn set(&mut self, setting: &Setting, value: &Spanned<DeValue>) {
        let origin = self.origin(&value.span());
        if let Err(error) = number_fits(value.get_ref())
            .and_then(|()| self.layer.set(setting, &raw_value(value.get_ref()), origin))
        {
            self.report(value.span(), error.context(format!("'{}'", setting.name())));
        }
    }

    /// Parses a table with arbitrary names in the order of the file; the tree is ordered by name.
    fn variables(&mut self, setting: &Setting, variables: &DeTable) {
        let mut entries: Vec<TomlEntry> = variables.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let origin = self.origin(&key.span());
            let raw = raw_value(value.get_ref());
            if let Err(error) = number_fits(value.get_ref())
                .and_then(|()| self.layer.set_entry(setting, key.get_ref(), &raw, origin))
            {
                self.report(key.span(), error);
            }
        }
    }
}

/// Returns whether `setting` belongs to the table at `path`.
fn is_below(setting: &Setting, path: &str) -> bool {
    setting.key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
}

/// Returns the keys of the table at `path`.
fn siblings(path: &str) -> Vec<&'static str> {
    let mut keys: Vec<&str> = Vec::new();
    for setting in definition_settings().filter(|setting| path.is_empty() || is_below(setting, path)) {
        let rest = if path.is_empty() { setting.key } else { &setting.key[path.len() + 1..] };
        let key = rest.split('.').next().unwrap_or_default();
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// Returns the hint for the unknown key `name` in the table at `path`: a similar key of this table, or the
/// table of this key.
fn suggestion(path: &str, name: &str) -> Option<String> {
    if let Some(near) = nearest(name, siblings(path).into_iter()) {
        return Some(format!("did you mean '{near}'?"));
    }
    let (table, key) = definition_settings()
        .filter_map(|setting| setting.key.rsplit_once('.'))
        .find(|(_, key)| *key == name)?;
    Some(format!("write '{key}' in [{table}]"))
}

fn wanted_table(path: &str, found: &DeValue) -> Error {
    let error = raw_value(found).expected(&format!("a table for {}", ticked(path)));
    match siblings(path).as_slice() {
        [] => error,
        keys => error.with_hint(format!("write [{path}] with the keys {}", keys.join(", "))),
    }
}

/// Converts a value of TOML.
fn raw_value<'a>(value: &'a DeValue) -> RawValue<'a> {
    match value {
        DeValue::String(text) => RawValue::Text(text),
        DeValue::Boolean(value) => RawValue::Boolean(*value),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(RawValue::Other("a number"), RawValue::Integer),
        DeValue::Float(_) => RawValue::Other("a number with a fraction"),
        DeValue::Datetime(_) => RawValue::Other("a date or time"),
        DeValue::Array(_) => RawValue::Other("a list"),
        DeValue::Table(_) => RawValue::Other("a table"),
    }
}

/// Returns an error for a whole number beyond 64 bits, which is not an error of its type.
fn number_fits(value: &DeValue) -> Result<(), Error> {
    match (value, raw_value(value)) {
        (DeValue::Integer(_), RawValue::Other(_)) => Err(Error::new("the number is too large")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        read(Path::new("web.toml"), text).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn settings_are_parsed_with_their_lines() {
        let (layer, problems) = read(
            Path::new("web.toml"),
            "[root]\ndirectory = '/srv/x'\n[resources]\ntasks-max = 2048\n[environment]\nLANG = 'C'\n\
             [security]\ncapabilities = { drop = ['CAP_NET_RAW'] }\n",
        );
        assert_eq!(problems, []);
        assert_eq!(layer.root.directory.origin(), Origin::File { path: "web.toml".into(), line: 2 });
        assert_eq!(layer.security.capabilities_drop.sourced().len(), 1);
        assert_eq!(layer.command.environment.sourced()[0].origin.to_string(), "web.toml:6");
    }

    #[test]
    fn all_problems_are_reported_in_the_order_of_the_file() {
        let found =
            problems("[resources]\nmemroy-max = '1G'\ntasks-max = 'x'\n[bot]\n[boot]\nwait = 'redy'\n");
        assert_eq!(found.len(), 4, "{found:#?}");
        assert_eq!(
            found[0],
            "web.toml:2:1: unknown key 'memroy-max' in [resources]\n  2 | memroy-max = '1G'\n    | \
             ^^^^^^^^^^\n  hint: did you mean 'memory-max'?"
        );
        assert!(found[3].ends_with("hint: did you mean \"ready\"?"), "{}", found[3]);
    }

    #[test]
    fn invalid_input_is_an_error_and_never_a_panic() {
        let long = "9".repeat(5000);
        let deep = "[".repeat(5000);
        for text in [
            "\0",
            "\u{feff}x",
            "=",
            "[",
            "]]",
            "[[root]]",
            "root = 1",
            "mount = 1",
            "mount = [1]",
            "[a.b",
            "[boot]\nstop-timeout = 1e999",
            "[boot]\nstop-timeout = nan",
            "[boot]\narguments = [[1]]",
            "[resources]\nmemory-max = 0x",
            "environment = []",
            "[environment]\n'' = ''\n",
            "a\u{1b}[2J = 1",
            "[security]\ncapabilities = 1",
            "[security.capabilities]\nadd = 'x'",
            "\r",
            "\"\\u0000\" = 1",
            &format!("[resources]\nmemory-max = {long}"),
            &format!("[root]\ndirectory = '/{long}'"),
            &"x=1\n".repeat(20_000),
            &format!("{long} = 1"),
            &format!("a = {deep}"),
            &format!("[boot]\nstop-signal = -{long}"),
        ] {
            assert!(!problems(text).is_empty(), "{text:?}");
            assert!(problems(text).len() <= MAX_PROBLEMS + 1);
            for problem in problems(text) {
                assert!(problem.len() < 2000 && !problem.contains('\u{1b}'), "{problem}");
            }
        }
    }
}
