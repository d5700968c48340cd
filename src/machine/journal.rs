//! The journal of a machine.

/// The connection of the journal directories of host and guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JournalLink {
    /// None.
    #[default]
    No,
    /// The journal is in a directory of the host, mounted in the guest.
    Host(LinkNeed),
    /// The journal is in the guest, and the host has a link to its directory.
    Guest(LinkNeed),
    /// As [`JournalLink::Host`] if the host has the directory.
    Auto,
}

/// The consequence of a connection that is not possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkNeed {
    /// The machine does not start.
    Required,
    /// The machine starts without it.
    Optional,
}

impl JournalLink {
    /// Returns whether the machine does not start without it.
    pub(crate) fn is_required(self) -> bool {
        matches!(self, Self::Host(LinkNeed::Required) | Self::Guest(LinkNeed::Required))
    }
}

/// The journal of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Journal {
    /// The connection of its directory with the host.
    pub(crate) link: JournalLink,
}
