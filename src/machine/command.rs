//! What runs as the payload: a whole system or one command.

use std::ffi::OsString;
use std::path::PathBuf;

/// The payload of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// An init system, with further arguments.
    Boot {
        /// Arguments passed to the init.
        arguments: Vec<OsString>,
    },
    /// One command as PID 1, or as PID 2 below a stub init. Empty: the user's login shell.
    Command {
        /// The program and its arguments.
        argv: Vec<OsString>,
        /// Whether a stub init becomes PID 1 and the command PID 2.
        as_pid2: bool,
    },
}

/// The payload with its surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What runs.
    pub payload: Payload,
    /// The working directory inside, absolute; the user's home directory where not given.
    pub directory: Option<PathBuf>,
    /// The user the command runs as: a name or number of the guest; root where not given.
    pub user: Option<String>,
    /// Variables for PID 1, `NAME` and value, in order; later ones win.
    pub environment: Vec<(String, String)>,
}
