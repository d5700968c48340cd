//! The set of defaults of a machine. Chosen by `config`, used by the rows of `settings!`.

use crate::machine::contract::Contract;

/// A set of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// A machine started as a unit: private users and network, console in the journal.
    Unit,
    /// A defined machine in the foreground: as [`Profile::Unit`], on the terminal of the caller.
    Foreground,
    /// `coracle run` without a definition, with the defaults of systemd-nspawn(1): a command on the terminal
    /// of the caller, with the host's network and users.
    Options,
    /// The same for a program called `systemd-nspawn`.
    Nspawn,
}

impl Profile {
    /// Returns whether the defaults are those of systemd-nspawn(1).
    pub(crate) fn is_of_nspawn(self) -> bool {
        matches!(self, Self::Options | Self::Nspawn)
    }

    /// Returns the program whose behaviour the machine has.
    pub(crate) fn contract(self) -> Contract {
        if self == Self::Nspawn { Contract::Nspawn } else { Contract::Coracle }
    }
}
