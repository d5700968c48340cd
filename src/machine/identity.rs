//! The identity of a machine.

use super::id128::Id128;

/// Host name and machine id of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    /// The kernel host name; `None` for the name of the machine.
    pub(crate) hostname: Option<String>,
    /// The machine id of machine-id(5) for the guest; `None` to derive it from the name.
    pub(crate) uuid: Option<Id128>,
}
