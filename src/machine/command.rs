//! The payload of a machine: a whole system or one command.

use std::ffi::OsString;
use std::path::PathBuf;

/// The payload of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// An init system.
    Boot {
        /// Arguments passed to the init.
        arguments: Vec<OsString>,
    },
    /// One command as PID 1, or as PID 2 of a stub init. Without arguments, the login shell of the user.
    Command {
        /// The program and its arguments.
        argv: Vec<OsString>,
        /// Whether a stub init becomes PID 1 and the command PID 2.
        as_pid2: bool,
    },
    /// None: a stub init holds the namespaces for commands that enter them.
    Hold,
}

/// The payload with its user, directory and environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The payload.
    pub payload: Payload,
    /// The working directory inside, absolute; `None` for the home directory of the user.
    pub(crate) directory: Option<PathBuf>,
    /// The user of the command, a name or number of the guest; `None` for root.
    pub(crate) user: Option<String>,
    /// The ids of the command instead of a user, as inside.
    pub(crate) ids: Option<UserIds>,
    /// Environment variables of PID 1, name and value; of equal names the last one applies.
    pub(crate) environment: Vec<(String, String)>,
}

/// The ids of a process, as inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIds {
    /// The user id.
    pub(crate) uid: u32,
    /// The group id.
    pub(crate) gid: u32,
    /// The supplementary groups.
    pub(crate) groups: Vec<u32>,
}
