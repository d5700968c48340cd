//! Values that several features share: raw values, booleans, texts, paths, and settings of a few words. Sizes
//! and durations are in the files of this directory. Used by the features of `config` and by the command
//! line; it knows no file and no default.

mod durations;
mod escapes;
mod sizes;

pub(crate) use escapes::unescape;
pub(crate) use sizes::{CountLimit, Size};

use crate::error::{Error, Result, nearest};
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// The word for no limit, as in systemd.resource-control(5).
pub(super) const INFINITY: &str = "infinity";

/// A value as written, not parsed yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RawValue<'a> {
    /// The text of an option, or a string of TOML.
    Text(&'a str),
    /// A whole number.
    Integer(i64),
    /// `true` or `false`.
    Boolean(bool),
    /// A value of another type, by its description: `a table`.
    Other(&'static str),
}

impl RawValue<'_> {
    /// Returns the error for a value of the wrong type.
    pub(crate) fn expected(&self, wanted: &str) -> Error {
        let got = match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::Other(description) => description,
        };
        Error::new(format!("expected {wanted}, found {got}"))
    }
}

/// Formats the value as written in a definition.
impl fmt::Display for RawValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Other(description) => f.write_str(description),
        }
    }
}

/// A type of settings.
pub(crate) trait Value: Sized {
    /// Parses a value as written.
    ///
    /// # Errors
    /// The value is invalid.
    fn read(raw: &RawValue) -> Result<Self>;

    /// Parses the entry `name` of a table with arbitrary names.
    ///
    /// # Errors
    /// The name or the value is invalid.
    fn read_entry(name: &str, raw: &RawValue) -> Result<Self> {
        let _ = name;
        Self::read(raw)
    }

    /// Formats the value as written in a definition.
    fn show(&self) -> String;
}

/// Returns the value of the word `raw`.
///
/// # Errors
/// The word is not in `words`; the hint is the nearest one.
pub(super) fn choose<T: Copy>(raw: &RawValue, words: &[(&'static str, T)]) -> Result<T> {
    let RawValue::Text(text) = raw else { return Err(raw.expected("a word")) };
    if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
        return Ok(*value);
    }
    let list: Vec<String> = words.iter().map(|(word, _)| quoted(word)).collect();
    let error = Error::new(format!("{} is not one of {}", quoted(text), list.join(", ")));
    Err(match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(near) => error.with_hint(format!("did you mean {}?", quoted(near))),
        None => error,
    })
}

/// Formats the word of `value`.
pub(super) fn word_of<T: PartialEq>(value: &T, words: &[(&'static str, T)]) -> String {
    quoted(words.iter().find(|(_, other)| other == value).map_or("", |(word, _)| word))
}

/// Implements [`Value`] for a type with one word for each value.
macro_rules! words {
    ($type:ty, $words:expr $(,)?) => {
        impl Value for $type {
            fn read(raw: &RawValue) -> Result<Self> {
                $crate::config::values::choose(raw, &$words)
            }

            fn show(&self) -> String {
                $crate::config::values::word_of(self, &$words)
            }
        }
    };
}

pub(super) use words;

/// Formats `text` as a string of TOML on one line, without control characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => shown.extend(['\\', letter]),
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            letter if letter.is_control() => shown.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => shown.push(letter),
        }
    }
    shown.push('"');
    shown
}

/// Formats text of the user in ticks, with escapes if it contains control characters.
pub(super) fn ticked(text: &str) -> String {
    if text.chars().any(char::is_control) || text.len() > 100 {
        let short: String = text.chars().take(100).collect();
        return quoted(&short);
    }
    format!("'{text}'")
}

/// Parses a boolean of systemd, for example `yes`. `None` for any other word.
pub(crate) fn systemd_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

/// Returns the word of a setting that may be a boolean too: yes is `auto`, no is `off`.
pub(crate) fn word_or_auto(value: &str) -> &str {
    match systemd_boolean(value) {
        Some(true) => "auto",
        Some(false) => "off",
        None => value,
    }
}

/// Returns `text` unless it contains a NUL character, which paths, arguments and variables cannot.
pub(super) fn without_nul(text: &str) -> Result<&str> {
    if text.contains('\0') {
        return Err(Error::new(format!("{} contains a NUL character", quoted(text))));
    }
    Ok(text)
}

impl Value for bool {
    fn read(raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Boolean(value) => Ok(*value),
            RawValue::Text("yes" | "on" | "1" | "true") => {
                Err(raw.expected("a boolean").with_hint("write true, without quotes"))
            }
            RawValue::Text("no" | "off" | "0" | "false") => {
                Err(raw.expected("a boolean").with_hint("write false, without quotes"))
            }
            RawValue::Integer(0) => Err(raw.expected("a boolean").with_hint("write false")),
            RawValue::Integer(1) => Err(raw.expected("a boolean").with_hint("write true")),
            _ => Err(raw.expected("a boolean")),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a string")) };
        if text.is_empty() {
            return Err(Error::new("the text is empty"));
        }
        if text.chars().any(char::is_control) {
            return Err(Error::new(format!("{} contains a control character", quoted(text))));
        }
        Ok((*text).to_owned())
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Value for PathBuf {
    /// Parses an absolute path without `..` and removes `//`, `/./` and a final `/`.
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a path")) };
        if text.is_empty() {
            return Err(Error::new("the path is empty"));
        }
        let path = Path::new(without_nul(text)?);
        if !path.is_absolute() {
            return Err(Error::new(format!("the path '{text}' is not absolute"))
                .with_hint("write a path that begins with '/'"));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(Error::new(format!("the path '{text}' contains '..'"))
                .with_hint("write the path without '..'"));
        }
        // PATH_MAX of limits.h includes the final NUL; NAME_MAX applies to each component.
        if text.len() > 4095 || path.components().any(|part| part.as_os_str().len() > 255) {
            return Err(Error::new("the path is too long (at most 4095 bytes, 255 per component)"));
        }
        Ok(path.components().collect())
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_parsed_to_the_same_text() {
        for text in ["", "a b", "\"\\'", "a\nb\tc", "\0\u{1b}[2J\u{7f}\u{9b}", "ü€"] {
            let table: toml::Table = format!("x = {}", quoted(text)).parse().unwrap();
            assert_eq!(table["x"].as_str(), Some(text));
            assert!(!quoted(text).contains(char::is_control));
        }
    }

    #[test]
    fn paths_are_absolute_and_normalized() {
        let read = |text| PathBuf::read(&RawValue::Text(text));
        assert_eq!(read("/a//b/./c/").unwrap(), PathBuf::from("/a/b/c"));
        for bad in ["", "a", "./a", "/a/../b", "/a\0", &format!("/{}", "x".repeat(300))] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
