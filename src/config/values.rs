//! The values of settings: how each is read from what people write and shown as they would write
//! it. Called by `toml` and by the command line; it knows no file and no default.

mod egress;
mod interface;
mod limits;
mod names;
mod port;
mod words;

pub use egress::Rate;
pub use limits::{Limit, Quota, Size, Weight};
pub use names::{Argument, Capability, Device, Hostname, Slice, Syscall, Uuid, Variable};
pub use words::{OwnershipWord, Signal};

use crate::error::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// A value as it was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Given<'a> {
    /// A text: of an option, or a string of TOML.
    Text(&'a str),
    /// A whole number.
    Integer(i64),
    /// `true` or `false`.
    Boolean(bool),
    /// Anything else, by the word for it: `a table`.
    Other(&'static str),
}

impl Given<'_> {
    /// The error for a value of the wrong type.
    pub fn expected(&self, wanted: &str) -> Error {
        let got = match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::Other(word) => word,
        };
        Error::new(format!("expected {wanted}, found {got}"))
    }
}

/// A type that settings have.
pub trait Value: Sized {
    /// Reads what was written.
    ///
    /// # Errors
    /// What is wrong with it, and where known the hint.
    fn read(given: &Given) -> Result<Self>;

    /// The value as it is written in a definition.
    fn show(&self) -> String;
}

/// `text` as a string of TOML on one line, fit for a terminal.
pub fn quoted(text: &str) -> String {
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

/// Refuses what no path, argument or variable of Linux can hold.
pub(super) fn without_nul(text: &str) -> Result<&str> {
    if text.contains('\0') {
        return Err(Error::new(format!("{} holds a NUL character", quoted(text))));
    }
    Ok(text)
}

impl Value for bool {
    fn read(given: &Given) -> Result<Self> {
        match given {
            Given::Boolean(value) => Ok(*value),
            Given::Text("yes" | "on" | "1" | "true") => {
                Err(given.expected("a boolean").with_hint("write true, without quotes"))
            }
            Given::Text("no" | "off" | "0" | "false") => {
                Err(given.expected("a boolean").with_hint("write false, without quotes"))
            }
            Given::Integer(0) => Err(given.expected("a boolean").with_hint("write false")),
            Given::Integer(1) => Err(given.expected("a boolean").with_hint("write true")),
            _ => Err(given.expected("a boolean")),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("a string")) };
        if text.is_empty() {
            return Err(Error::new("the text is empty"));
        }
        if text.chars().any(char::is_control) {
            return Err(Error::new(format!("{} holds a control character", quoted(text))));
        }
        Ok((*text).to_owned())
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Value for PathBuf {
    /// An absolute path without `..`, made plain: no `//`, no `/./`, no `/` at the end.
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("a path")) };
        if text.is_empty() {
            return Err(Error::new("the path is empty"));
        }
        let path = Path::new(without_nul(text)?);
        if !path.is_absolute() {
            return Err(
                Error::new(format!("the path '{text}' is not absolute")).with_hint("begin it with '/'")
            );
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(Error::new(format!("the path '{text}' goes up with '..'"))
                .with_hint("write the path it leads to"));
        }
        // PATH_MAX of limits.h, with the final NUL; NAME_MAX for each part.
        if text.len() > 4095 || path.components().any(|part| part.as_os_str().len() > 255) {
            return Err(Error::new("the path is longer than Linux takes"));
        }
        Ok(path.components().collect())
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Value for super::layer::Mount {
    /// Mounts are tables or options, read by their own readers.
    fn read(given: &Given) -> Result<Self> {
        Err(given.expected("a table of a mount"))
    }

    fn show(&self) -> String {
        use super::layer::MountWord::{Bind, Inaccessible, Tmpfs};
        let word = match self.kind {
            Bind => "bind",
            Tmpfs => "tmpfs",
            Inaccessible => "inaccessible",
        };
        let mut parts = vec![format!("type = {}", quoted(word))];
        let mut part = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                parts.push(format!("{key} = {value}"));
            }
        };
        part("source", self.source.as_ref().map(Value::show));
        part("target", self.target.as_ref().map(Value::show));
        part("read-only", self.read_only.as_ref().map(Value::show));
        part("recursive", self.recursive.as_ref().map(Value::show));
        part("map-ids", self.map_ids.as_ref().map(Value::show));
        part("setuid", self.setuid.as_ref().map(Value::show));
        part("options", self.options.as_ref().map(Value::show));
        format!("{{ {} }}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_read_back_as_it_was() {
        for text in ["", "a b", "\"\\'", "a\nb\tc", "\0\u{1b}[2J\u{7f}\u{9b}", "ü€"] {
            let table: toml::Table = format!("x = {}", quoted(text)).parse().unwrap();
            assert_eq!(table["x"].as_str(), Some(text));
            assert!(!quoted(text).contains(char::is_control));
        }
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        let read = |text| PathBuf::read(&Given::Text(text));
        assert_eq!(read("/a//b/./c/").unwrap(), PathBuf::from("/a/b/c"));
        for bad in ["", "a", "./a", "/a/../b", "/a\0", &format!("/{}", "x".repeat(300))] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
