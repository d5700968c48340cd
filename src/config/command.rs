//! The payload: the command, its user and directory, and `[environment]`.

use super::problem::Problem;
use super::profile::Profile;
use super::setting::{List, Origin, Single, Sourced, settings};
use super::values::{RawValue, Value, quoted, without_nul};
use crate::error::{Error, Result};
use crate::machine::command::UserIds;
use crate::machine::command::{Command, Payload};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

settings! {
    /// Settings of the payload.
    CommandSettings {
        /// Environment variables of PID 1.
        environment: List<Variable> = Variables "environment";
        /// Whether an init is started.
        boot: Single<bool> = FlagOnly "boot";
        /// Whether a stub init becomes PID 1.
        as_pid2: Single<bool> = FlagOnly "as-pid2", |_| false;
        /// The command, or arguments for the init.
        command: List<Argument> = FlagOnly "command";
        /// The working directory.
        chdir: Single<PathBuf> = FlagOnly "chdir";
        /// The user of the command.
        user: Single<String> = FlagOnly "user";
        /// The ids of the command, instead of a user.
        ids: Single<UserIds> = FlagOnly "user-ids";
    }
}

impl CommandSettings {
    /// Decides whether an init is started, before the defaults are set: a defined machine boots, unless an
    /// option requests a command.
    pub(super) fn fill_boot(&mut self, profile: Profile) {
        let is_command = !self.command.sourced().is_empty()
            || self.as_pid2.value().is_some()
            || self.user.value().is_some()
            || self.chdir.value().is_some();
        self.boot.fill(|| !profile.is_of_nspawn() && !is_command);
    }

    /// Returns whether a source decides how the machine starts.
    pub(super) fn has_command(&self) -> bool {
        self.boot.value().is_some() || self.as_pid2.value().is_some() || !self.command.sourced().is_empty()
    }

    /// Returns the first word of the command.
    pub(super) fn first_word(&self) -> Option<&str> {
        self.command.values().next().and_then(|argument| argument.0.to_str())
    }

    /// Removes variables that a later one of the same name replaces.
    pub(super) fn deduplicate_environment(&mut self) {
        self.environment.keep_last(|variable| variable.name.clone());
    }

    /// Returns a warning for each variable of a definition with a name of a secret: every user of the host
    /// can read definitions.
    pub(super) fn warnings(&self) -> Vec<Problem> {
        let is_secret = |name: &str| {
            let name = name.to_ascii_uppercase();
            let mut words = name.split('_');
            words.any(|word| ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "KEY"].contains(&word))
        };
        let secrets = self.environment.sourced().iter().filter(|variable| {
            is_secret(&variable.value.name) && matches!(variable.origin, Origin::File { .. })
        });
        let warning = |variable: &Sourced<Variable>| {
            let name = &variable.value.name;
            let text = format!(
                "every user of the host can read '{name}', and of a booted guest only PID 1 receives it: use [credentials]"
            );
            Problem::warning(&variable.origin, text)
        };
        secrets.map(warning).collect()
    }

    /// Builds the payload; `init_arguments` are the arguments of the definition for the init.
    pub(super) fn build(&self, init_arguments: Vec<OsString>, profile: Profile) -> Result<Command> {
        let mut argv: Vec<_> = self.command.values().map(|argument| argument.0.clone()).collect();
        let mut environment = Vec::new();
        let payload = if self.boot.required("boot")? {
            if profile == Profile::Nspawn {
                argv.retain(|word| match variable_for_init(word) {
                    Some(variable) => {
                        environment.push(variable);
                        false
                    }
                    None => true,
                });
            }
            Payload::Boot { arguments: init_arguments.into_iter().chain(argv).collect() }
        } else {
            Payload::Command { argv, as_pid2: self.as_pid2.required("as-pid2")? }
        };
        environment.extend(self.environment.values().cloned());
        Ok(Command {
            payload,
            directory: self.chdir.value().cloned(),
            user: self.user.value().cloned(),
            ids: self.ids.value().cloned(),
            environment: environment.into_iter().map(|Variable { name, value }| (name, value)).collect(),
        })
    }
}

/// Returns the variable of a word `KEY=VALUE` for an init, as the kernel passes on words of its command line
/// (bootparam(7)). `None` for an argument of the init; a key with a dot is one.
fn variable_for_init(word: &OsStr) -> Option<Variable> {
    let (key, value) = word.to_str()?.split_once('=').filter(|(key, _)| !key.contains('.'))?;
    Variable::new(&key.replace('-', "_"), value).ok()
}

/// An argument of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument(pub OsString);

impl Value for Argument {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a string")) };
        Ok(Self(without_nul(text)?.into()))
    }

    fn show(&self) -> String {
        quoted(&self.0.to_string_lossy())
    }
}

impl Value for UserIds {
    /// Rejects all values: the ids are those of a bundle.
    fn read(raw: &RawValue) -> Result<Self> {
        Err(raw.expected("the ids of a bundle"))
    }

    fn show(&self) -> String {
        quoted(&format!("{}:{}", self.uid, self.gid))
    }
}

/// An environment variable of PID 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: String,
}

impl Variable {
    /// Creates a variable.
    ///
    /// # Errors
    /// The name is not valid in a shell, or the value contains control characters.
    pub(crate) fn new(name: &str, value: &str) -> Result<Self> {
        let fits = |(at, letter): (usize, char)| {
            letter == '_' || letter.is_ascii_alphabetic() || (at > 0 && letter.is_ascii_digit())
        };
        if name.is_empty() || !name.chars().enumerate().all(fits) {
            return Err(Error::new(format!("{} is not the name of a variable", quoted(name)))
                .with_hint("use letters, digits and '_'; the first character is not a digit"));
        }
        if value.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\t')) {
            return Err(Error::new(format!("the value of '{name}' contains a control character")));
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl Value for Variable {
    /// Parses `NAME=VALUE`.
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else {
            return Err(raw.expected("a variable such as \"NAME=VALUE\""));
        };
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Error::new(format!("{} is not a variable", quoted(text))).with_hint("write NAME=VALUE")
        })?;
        Self::new(name, value)
    }

    fn read_entry(name: &str, raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Text(text) => Self::new(name, text),
            other => Err(other
                .expected("a string")
                .context(format!("'{}'", name.escape_debug()))
                .with_hint("write the value between quotes")),
        }
    }

    fn show(&self) -> String {
        format!("{} = {}", self.name, quoted(&self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_names_valid_in_a_shell() {
        assert!(Variable::new("LANG", "C.UTF-8").is_ok());
        for (name, value) in [("", "a"), ("1A", "a"), ("A B", "a"), ("A", "\0"), ("A", "\u{1b}[2J")] {
            assert!(Variable::new(name, value).is_err(), "{name:?}");
        }
    }
}
