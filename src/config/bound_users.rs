//! `users.bind`: users of the host in a machine.

use super::setting::{List, Single, settings};
use super::values::{RawValue, Value, quoted};
use crate::error::{Error, Result};
use crate::machine::bound_users::{BoundShell, BoundUsers};
use std::path::PathBuf;

settings! {
    /// Settings of users of the host.
    BoundUsersSettings {
        /// Users of the host that the machine knows.
        names: List<UserName> = List "users.bind";
        /// Their shell inside.
        shell: Single<BoundShell> = Single "users.bind-shell";
        /// Further groups of theirs inside.
        groups: List<UserName> = List "users.bind-groups";
    }
}

impl BoundUsersSettings {
    /// Builds the users.
    pub(super) fn build(&self) -> BoundUsers {
        // A name may be given several times, as for systemd-nspawn(1).
        let texts = |names: &List<UserName>| {
            let mut names = names.clone();
            names.keep_last(|name| name.0.clone());
            names.values().map(|name| name.0.clone()).collect()
        };
        BoundUsers {
            names: texts(&self.names),
            shell: self.shell.value().cloned().unwrap_or_default(),
            groups: texts(&self.groups),
        }
    }
}

/// The name of a user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserName(String);

impl Value for UserName {
    /// Parses a name in the strict syntax of systemd (USER_NAMES).
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("the name of a user")) };
        let is_first = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
        let is_next = |letter: char| is_first(letter) || letter.is_ascii_digit() || letter == '-';
        if text.starts_with(is_first) && text.chars().all(is_next) && text.len() <= 31 {
            return Ok(Self((*text).to_owned()));
        }
        Err(Error::new(format!("{} is not the name of a user", quoted(text)))
            .with_hint("write at most 31 letters, digits, '_' and '-', beginning with a letter or '_'"))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

impl Value for BoundShell {
    fn read(raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Boolean(false) => Ok(Self::Default),
            RawValue::Boolean(true) => Ok(Self::Host),
            RawValue::Text(text) if text.starts_with('/') => PathBuf::read(raw).map(Self::Path),
            _ => Err(raw.expected("true, false or the path of a shell")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Default => "false".into(),
            Self::Host => "true".into(),
            Self::Path(path) => path.show(),
        }
    }
}
