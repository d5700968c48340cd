//! The program whose documented behaviour a machine has. Chosen by the command line, read by `plan`,
//! `supervisor` and `host`.

use serde::{Deserialize, Serialize};

/// The program whose documented behaviour a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Contract {
    /// coracle(1).
    #[default]
    Coracle,
    /// systemd-nspawn(1): the program was called by that name.
    Nspawn,
}

impl Contract {
    /// Returns the name of the program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Coracle => "coracle",
            Self::Nspawn => "systemd-nspawn",
        }
    }
}
