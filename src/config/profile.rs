//! The set of defaults of a machine. Chosen by `config`, used by the rows of `settings!`.

/// A set of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// A machine started as a unit: private users and network, console in the journal.
    Unit,
    /// A defined machine in the foreground: as [`Profile::Unit`], on the terminal of the caller.
    Foreground,
    /// systemd-nspawn(1): a command on the terminal of the caller, with the host's network and users.
    Nspawn,
}
