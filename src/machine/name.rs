//! The name of a machine: a host name of at most 64 characters, as machined(8) requires.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The directories of definitions beside the state directories of machines.
const RESERVED: [&str; 2] = ["machines.d", "build.d"];

/// A machine name: labels of letters, digits, `-` and `_` joined by dots, at most 64 characters.
///
/// Source: systemd-machined.service(8), hostname(7). It is valid as a file name, as the instance of a unit
/// and as a cgroup name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Creates a name.
    ///
    /// # Errors
    /// The name is invalid; the message names the broken rule.
    pub fn new(name: &str) -> Result<Self> {
        let invalid = |reason: &str| {
            Err(Error::new(format!("invalid machine name {name:?}: {reason}"))
                .with_hint("use letters, digits, '-', '_' and single dots, at most 64 characters"))
        };
        if name.is_empty() {
            return invalid("it is empty");
        }
        if name.len() > 64 {
            return invalid("it is longer than 64 characters");
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return invalid("it contains a character that host names cannot contain");
        }
        if name.split('.').any(|label| label.is_empty() || label.starts_with('-') || label.ends_with('-')) {
            return invalid("a label is empty, or begins or ends with '-'");
        }
        if RESERVED.contains(&name) {
            return invalid(&format!("definitions are in '/run/coracle/{name}'"));
        }
        Ok(Self(name.to_owned()))
    }

    /// Returns whether machined can register a machine with this name: it accepts only host names without
    /// `_`.
    pub(crate) fn is_registrable(&self) -> bool {
        !self.0.contains('_')
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(&name)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl AsRef<std::path::Path> for Name {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn names_are_host_names() {
        for good in ["web", "web-1", "a.b", "x_y", "0"] {
            assert_eq!(Name::new(good).unwrap().is_registrable(), good != "x_y", "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "-a", "a-", "a..b", "ü", "a\0", &"x".repeat(65)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        for reserved in super::RESERVED {
            assert!(Name::new(reserved).is_err(), "{reserved}");
        }
    }
}
