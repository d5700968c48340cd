//! The identity of a machine.

use super::id128::Id128;

/// The treatment of the guest's localtime(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timezone {
    /// Unchanged.
    #[default]
    Off,
    /// A copy of the host's file.
    Copy,
    /// The host's file, mounted over it.
    Bind,
    /// A link to the zone of the host's link; a mount if the guest lacks the zone.
    Symlink,
    /// Deleted.
    Delete,
    /// The way that the root and the host allow.
    Auto,
}

/// Host name, machine id and time zone of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    /// The kernel host name; `None` for the name of the machine.
    pub(crate) hostname: Option<String>,
    /// The machine id of machine-id(5) for the guest; `None` to derive it from the name.
    pub(crate) uuid: Option<Id128>,
    /// The treatment of its time zone.
    pub(crate) timezone: Timezone,
}
