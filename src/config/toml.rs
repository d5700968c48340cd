//! A definition's text to a layer, with every problem in it. Called by `files`; it reads no file
//! and knows no default.
//!
//! The tree of values with their places is walked by the table of settings instead of being
//! deserialized: serde stops at the first problem.

mod mount;

use super::layer::{Layer, Origin, SETTINGS, Setting, Shape};
use super::nearest::nearest;
use super::problem::{Problem, Source};
use super::values::{Given, Variable, quoted};
use crate::error::Error;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// More problems than people read at once.
const MOST_PROBLEMS: usize = 100;

/// What was said in the definition `text`, read from `file`, and all that is wrong in it, by place.
pub fn read(file: &Path, text: &str) -> (Layer, Vec<Problem>) {
    let source = Source::new(text);
    let mut reader = Reader { file, source: &source, layer: Layer::default(), wrong: Vec::new() };
    let (document, errors) = DeTable::parse_recoverable(text);
    reader.table("", document.get_ref());
    let mut wrong: Vec<Wrong> = errors.iter().map(|error| syntax(error, text.len())).collect();
    let broken: BTreeSet<usize> = wrong.iter().map(|(span, _)| source.line(span.start)).collect();
    // What a line that is no TOML seems to say is no problem of its own.
    wrong.extend(reader.wrong.into_iter().filter(|(span, _)| !broken.contains(&source.line(span.start))));
    wrong.sort_by_key(|(span, _)| span.start);
    let mut problems: Vec<Problem> = wrong
        .iter()
        .take(MOST_PROBLEMS)
        .map(|(span, error)| Problem::new(Some(file), error).at(source.place(span.clone())))
        .collect();
    if wrong.len() > MOST_PROBLEMS {
        let more = Error::new(format!("{} more problems", wrong.len() - MOST_PROBLEMS));
        problems.push(Problem::new(Some(file), &more));
    }
    (reader.layer, problems)
}

/// A problem and the bytes to blame.
type Wrong = (Range<usize>, Error);

fn syntax(error: &toml::de::Error, end: usize) -> Wrong {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    (error.span().unwrap_or(end..end), Error::new(message))
}

/// A key or value with its place.
type Entry<'a> = (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>);

/// A walk over one file.
struct Reader<'a> {
    file: &'a Path,
    source: &'a Source<'a>,
    layer: Layer,
    wrong: Vec<Wrong>,
}

impl Reader<'_> {
    /// Notes a problem at the bytes `span`.
    fn wrong(&mut self, span: Range<usize>, error: Error) {
        self.wrong.push((span, error));
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        Origin::File { path: self.file.to_owned(), line: self.source.line(span.start) }
    }

    /// Reads the table at `path`, a key with dots, empty for the document.
    fn table(&mut self, path: &str, table: &DeTable) {
        for (key, value) in table {
            let full = match path {
                "" => key.get_ref().to_string(),
                _ => format!("{path}.{}", key.get_ref()),
            };
            let setting = Setting::find(&full).filter(|setting| setting.shape != Shape::FlagOnly);
            match setting {
                Some(setting) => self.setting(setting, (key, value)),
                None if SETTINGS.iter().any(|setting| is_below(setting, &full)) => match value.get_ref() {
                    DeValue::Table(inner) => self.table(&full, inner),
                    _ => self.wrong(value.span(), wanted_table(&full, value.get_ref())),
                },
                None => self.unknown(path, key),
            }
        }
    }

    fn unknown(&mut self, path: &str, key: &Spanned<DeString>) {
        let name = key.get_ref().as_ref();
        let place = if path.is_empty() { String::new() } else { format!(" in [{path}]") };
        let error = Error::new(format!("unknown key {}{place}", ticked(name)));
        let error = match suggestion(path, name) {
            Some(hint) => error.with_hint(hint),
            None => error.with_hint(format!("known here: {}", siblings(path).join(", "))),
        };
        self.wrong(key.span(), error);
    }

    fn setting(&mut self, setting: &Setting, (key, value): Entry) {
        match (setting.shape, value.get_ref()) {
            (Shape::Many | Shape::OneOrMany | Shape::Mounts, DeValue::Array(items)) if items.is_empty() => {
                setting.reset(&mut self.layer);
            }
            (Shape::Many | Shape::OneOrMany, DeValue::Array(items)) => {
                for item in items {
                    self.say(setting, item);
                }
            }
            (Shape::Mounts, DeValue::Array(items)) => {
                for item in items {
                    self.mount(item);
                }
            }
            (Shape::Variables, DeValue::Table(variables)) => self.variables(variables),
            // Alone it is all there is: what was said below does not hold beside it.
            (Shape::OneOrMany, _) => {
                setting.reset(&mut self.layer);
                self.say(setting, value);
            }
            (Shape::One | Shape::FlagOnly, _) => self.say(setting, value),
            (Shape::Many, other) => {
                let error = given(other).expected(&format!("a list for '{}'", key.get_ref()));
                self.wrong(value.span(), error.with_hint("put it between '[' and ']'"));
            }
            (Shape::Mounts, other) => {
                let error = given(other).expected("a list of tables");
                self.wrong(value.span(), error.with_hint("begin each mount with the line [[mount]]"));
            }
            (Shape::Variables, other) => self.wrong(value.span(), wanted_table("environment", other)),
        }
    }

    fn say(&mut self, setting: &Setting, value: &Spanned<DeValue>) {
        let origin = self.origin(&value.span());
        if let Err(error) = number_fits(value.get_ref())
            .and_then(|()| setting.say(&mut self.layer, &given(value.get_ref()), origin))
        {
            let key = setting.key.rsplit('.').next().unwrap_or_default();
            self.wrong(value.span(), error.context(format!("'{key}'")));
        }
    }

    /// `[environment]`, in the order of the file: the tree has it by name.
    fn variables(&mut self, variables: &DeTable) {
        let mut entries: Vec<Entry> = variables.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let variable = match given(value.get_ref()) {
                Given::Text(text) => Variable::new(key.get_ref(), text),
                other => Err(other
                    .expected("a string")
                    .context(ticked(key.get_ref()))
                    .with_hint("put the value between quotes")),
            };
            match variable {
                Ok(variable) => {
                    let origin = self.origin(&key.span());
                    self.layer.environment.push(variable, origin);
                }
                Err(error) => self.wrong(key.span(), error),
            }
        }
    }
}

/// Whether `setting` lies in the table at `path`.
fn is_below(setting: &Setting, path: &str) -> bool {
    setting.shape != Shape::FlagOnly
        && setting.key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
}

/// The keys that the table at `path` may have.
fn siblings(path: &str) -> Vec<&'static str> {
    let mut keys: Vec<&str> = Vec::new();
    for setting in SETTINGS.iter().filter(|setting| path.is_empty() || is_below(setting, path)) {
        let rest = if path.is_empty() { setting.key } else { &setting.key[path.len() + 1..] };
        let key = rest.split('.').next().unwrap_or_default();
        if setting.shape != Shape::FlagOnly && !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// What was probably meant by `name` in the table at `path`: a key of that table, or one of
/// another table.
fn suggestion(path: &str, name: &str) -> Option<String> {
    if let Some(near) = nearest(name, siblings(path).into_iter()) {
        return Some(format!("did you mean '{near}'?"));
    }
    let (table, key) = SETTINGS
        .iter()
        .filter(|setting| setting.shape != Shape::FlagOnly)
        .filter_map(|setting| setting.key.rsplit_once('.'))
        .find(|(_, key)| *key == name)?;
    Some(format!("'{key}' belongs in [{table}]"))
}

fn wanted_table(path: &str, found: &DeValue) -> Error {
    let error = given(found).expected(&format!("a table for {}", ticked(path)));
    match siblings(path).as_slice() {
        [] => error,
        keys => error.with_hint(format!("write [{path}] with the keys {}", keys.join(", "))),
    }
}

/// A value of TOML in the words of settings.
fn given<'a>(value: &'a DeValue) -> Given<'a> {
    match value {
        DeValue::String(text) => Given::Text(text),
        DeValue::Boolean(value) => Given::Boolean(*value),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Given::Other("a number"), Given::Integer),
        DeValue::Float(_) => Given::Other("a number with a fraction"),
        DeValue::Datetime(_) => Given::Other("a date or time"),
        DeValue::Array(_) => Given::Other("a list"),
        DeValue::Table(_) => Given::Other("a table"),
    }
}

/// Refuses whole numbers that no setting can hold, instead of calling their type wrong.
fn number_fits(value: &DeValue) -> Result<(), Error> {
    match (value, given(value)) {
        (DeValue::Integer(_), Given::Other(_)) => Err(Error::new("the number is too large")),
        _ => Ok(()),
    }
}

/// User text in ticks; with escapes where it is no plain word.
fn ticked(text: &str) -> String {
    if text.chars().any(char::is_control) || text.len() > 100 {
        let short: String = text.chars().take(100).collect();
        return quoted(&short);
    }
    format!("'{text}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        read(Path::new("web.toml"), text).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn everything_of_the_product_page_is_read() {
        let (layer, problems) = read(
            Path::new("web.toml"),
            "[root]\ndirectory = '/srv/x'\n[resources]\ntasks-max = 2048\n[environment]\nLANG = 'C'\n\
             [security]\ncapabilities = { drop = ['CAP_NET_RAW'] }\n",
        );
        assert_eq!(problems, []);
        assert_eq!(layer.directory.origin(), Origin::File { path: "web.toml".into(), line: 2 });
        assert_eq!(layer.capabilities_drop.said().len(), 1);
        assert_eq!(layer.environment.said()[0].origin.to_string(), "web.toml:6");
    }

    #[test]
    fn all_problems_are_found_in_the_order_of_the_file() {
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
    fn garbage_is_refused_and_never_a_panic() {
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
            assert!(problems(text).len() <= MOST_PROBLEMS + 1);
            for problem in problems(text) {
                assert!(problem.len() < 2000 && !problem.contains('\u{1b}'), "{problem}");
            }
        }
    }
}
