//! The one error type: a chain of causes and a hint. Every module returns it; only `main` prints it.

mod nearest;

pub(crate) use nearest::nearest;

use serde::{Deserialize, Serialize};
use std::fmt;

/// The kind of an [`Error`]. It determines the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Wrong use of the command line: exit status 2.
    Usage,
    /// A machine did not reach its payload: exit status 125.
    Launch,
    /// The command in a machine cannot be executed: exit status 126, as with sh(1).
    NotExecutable,
    /// The command does not exist in a machine: exit status 127, as with sh(1).
    NoCommand,
    /// The files of a machine do not list a user or group: exit status 1.
    UnknownUser,
    /// Anything else: exit status 1.
    Failure,
}

/// The name of an error for programs: `io.coracle1.Error.NAME` on the bus, and in the report of a job. It does
/// not change the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ErrorName {
    /// No machine has this name.
    NoSuchMachine,
    /// The machine is not running.
    NotRunning,
    /// The definition is invalid.
    BadDefinition,
    /// An argument or option is invalid.
    BadArgument,
    /// The name belongs to another machine by now.
    Changed,
    /// The caller has too many calls, jobs or subscriptions.
    LimitsExceeded,
    /// The host or the machine lacks a feature.
    Unsupported,
    /// Anything else.
    #[default]
    Failed,
}

impl ErrorName {
    /// Returns the name on the bus.
    pub(crate) fn on_bus(self) -> &'static str {
        match self {
            Self::NoSuchMachine => "io.coracle1.Error.NoSuchMachine",
            Self::NotRunning => "io.coracle1.Error.NotRunning",
            Self::BadDefinition => "io.coracle1.Error.BadDefinition",
            Self::BadArgument => "io.coracle1.Error.BadArgument",
            Self::Changed => "io.coracle1.Error.Changed",
            Self::LimitsExceeded => "io.coracle1.Error.LimitsExceeded",
            Self::Unsupported => "io.coracle1.Error.Unsupported",
            Self::Failed => "io.coracle1.Error.Failed",
        }
    }
}

/// The exit status of a failure of Coracle itself where the other statuses are those of a payload.
pub(crate) const LAUNCH_STATUS: u8 = 125;

/// A failure with its chain of causes, outermost first, and a hint if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    name: ErrorName,
    chain: Vec<String>,
    hint: Option<String>,
}

/// Shorthand for results of this crate.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Creates an error with exit status 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { kind: Kind::Failure, name: ErrorName::Failed, chain: vec![message.into()], hint: None }
    }

    /// Creates an error of the command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, name: ErrorName::BadArgument, ..Self::new(message) }
    }

    /// Replaces the name for programs.
    pub(crate) fn named(self, name: ErrorName) -> Self {
        Self { name, ..self }
    }

    /// Returns the name for programs.
    pub fn name(&self) -> ErrorName {
        self.name
    }

    /// Replaces the kind.
    pub(crate) fn with_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Replaces the kind by that of an exit status, of another process with this error.
    pub(crate) fn of_status(self, status: u8) -> Self {
        self.with_kind(match status {
            2 => Kind::Usage,
            LAUNCH_STATUS => Kind::Launch,
            126 => Kind::NotExecutable,
            127 => Kind::NoCommand,
            _ => Kind::Failure,
        })
    }

    /// Returns whether a user or group is unknown.
    pub(crate) fn is_unknown_user(&self) -> bool {
        self.kind == Kind::UnknownUser
    }

    /// Replaces the kind, unless a cause has set one with an exit status of its own.
    pub(crate) fn with_kind_of_failure(self, kind: Kind) -> Self {
        if matches!(self.kind, Kind::Failure | Kind::UnknownUser) { self.with_kind(kind) } else { self }
    }

    /// Adds the failed action in front of the cause.
    pub fn context(mut self, action: impl Into<String>) -> Self {
        self.chain.insert(0, action.into());
        self
    }

    /// Adds a hint. The first one stays: it is the nearest to the cause.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Returns the hint. `None` if there is none.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns whether no command was executed because of it.
    pub(crate) fn is_launch(&self) -> bool {
        self.kind == Kind::Launch
    }

    /// Returns the exit status of a program that ends with this error.
    pub fn exit_status(&self) -> u8 {
        self.kind.exit_status()
    }
}

impl Kind {
    /// Returns the exit status of a program that ends with an error of this kind.
    pub(crate) fn exit_status(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Launch => LAUNCH_STATUS,
            Self::NotExecutable => 126,
            Self::NoCommand => 127,
            Self::UnknownUser | Self::Failure => 1,
        }
    }
}

/// Writes `action: … : cause`, lower case and on one line, for standard error and the journal.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(describe_io(&error))
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::from(std::io::Error::from(errno))
    }
}

impl From<nix::errno::Errno> for Error {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::from(std::io::Error::from(errno))
    }
}

/// Returns the system's text for an error, lower case and without the number that std appends.
fn describe_io(error: &std::io::Error) -> String {
    if error.raw_os_error() == Some(libc::EIO) {
        // The text of musl begins with an abbreviation.
        return "input/output error".to_owned();
    }
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => text.to_owned(),
    }
}

/// Adds context to results with any error that converts to [`Error`].
pub(crate) trait Context<T> {
    /// Adds `action()` in front of the cause: `cannot mount '/srv': no such file or directory`.
    fn context<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.into().context(action()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_system_begin_in_lower_case() {
        for (errno, text) in [(libc::EIO, "input/output error"), (libc::EPERM, "operation not permitted")] {
            assert_eq!(Error::from(std::io::Error::from_raw_os_error(errno)).to_string(), text);
        }
    }

    #[test]
    fn the_outermost_action_comes_first() {
        let failed: std::result::Result<(), _> = Err(rustix::io::Errno::NOENT);
        let error = failed.context(|| "cannot mount '/srv'").unwrap_err().with_hint("create it");
        assert_eq!(error.to_string(), "cannot mount '/srv': no such file or directory");
        assert_eq!(error.hint(), Some("create it"));
        assert_eq!(error.exit_status(), 1);
    }
}
