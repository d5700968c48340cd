//! A build session: a disposable machine that runs commands, one after the other or side by side.

use std::path::PathBuf;

/// The properties of a session beside those of every machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Build {
    /// The base, as its caller has named it.
    pub(crate) base: String,
    /// The user of its commands.
    pub(crate) user: BuildUser,
    /// The directories of the host with its results.
    pub(crate) results: Vec<PathBuf>,
}

/// The user of the commands of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BuildUser {
    /// Its name inside. It is created if the base does not have it.
    pub(crate) name: String,
    /// Its number, if the caller has chosen one.
    pub(crate) uid: Option<u32>,
    /// User and group of the caller on the host, to whom its files in bind mounts belong.
    pub(crate) caller: (u32, u32),
}
