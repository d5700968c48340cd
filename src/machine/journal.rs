//! The journal of a machine.

use std::path::PathBuf;

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

/// The place of a journal that the host receives from the guest, and its limits, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Forwarding {
    /// A file or directory of the host.
    pub(crate) path: PathBuf,
    /// The maximum disk space.
    pub(crate) max_use: Option<u64>,
    /// The disk space left free.
    pub(crate) keep_free: Option<u64>,
    /// The maximum size of a file.
    pub(crate) max_file_size: Option<u64>,
    /// The maximum number of files.
    pub(crate) max_files: Option<u64>,
}

impl Forwarding {
    /// Returns whether the journal is one file, by its name.
    pub(crate) fn is_file(&self) -> bool {
        self.path.extension().is_some_and(|suffix| suffix == "journal")
    }
}

/// The journal of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Journal {
    /// The connection of its directory with the host.
    pub(crate) link: JournalLink,
    /// The place of the journal that the host receives.
    pub(crate) forward: Option<Forwarding>,
}
