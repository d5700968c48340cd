//! The one error type: what failed, why, and where known the hint. Made by every module, printed
//! by `main` alone.

mod nearest;

pub use nearest::nearest;

use std::fmt;

/// What kind of failure an [`Error`] is; decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wrong use of the command line: exit status 2.
    Usage,
    /// A machine could not be brought to its payload: exit status 125.
    Launch,
    /// Another machine was faster: what was looked up holds no more, and is to be looked up again.
    Contended,
    /// Anything else: exit status 1.
    Failure,
}

/// A failure with its chain of causes, outermost first, and where known a hint at the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    chain: Vec<String>,
    hint: Option<String>,
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure that ends with exit status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { kind: Kind::Failure, chain: vec![message.into()], hint: None }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, ..Self::new(message) }
    }

    /// The same failure as another kind.
    pub fn with_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Puts what was being done in front of the cause.
    pub fn context(mut self, doing: impl Into<String>) -> Self {
        self.chain.insert(0, doing.into());
        self
    }

    /// Adds the hint. The first hint given is the nearest to the cause and stays.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// The kind, for decisions on exit status.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The hint, where known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit status of a program that ends with this failure.
    pub fn exit_status(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Launch | Kind::Contended => 125,
            Kind::Failure => 1,
        }
    }
}

/// `outer: … : cause`, lower case and on one line, as standard error and the journal show it.
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

/// The system's text for an error, lower case and without the number std appends.
fn describe_io(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => text.to_owned(),
    }
}

/// Puts context on any error that becomes ours.
pub trait Context<T> {
    /// Puts `doing()` in front of the cause: `cannot mount '/srv': no such file or directory`.
    fn context<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.into().context(doing()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_reads_from_the_outside_in() {
        let failed: std::result::Result<(), _> = Err(rustix::io::Errno::NOENT);
        let error = failed.context(|| "cannot mount '/srv'").unwrap_err().with_hint("create it");
        assert_eq!(error.to_string(), "cannot mount '/srv': no such file or directory");
        assert_eq!(error.hint(), Some("create it"));
        assert_eq!(error.exit_status(), 1);
    }
}
