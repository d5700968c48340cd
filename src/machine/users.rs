//! The user ids of a machine.

/// The number of ids in the range of a machine.
pub(crate) const RANGE_SIZE: u32 = 65536;

/// The number of ids of a machine with nesting: it includes the ranges that podman and coracle use inside,
/// from 100000 and from 524288.
pub(crate) const NESTING_RANGE_SIZE: u32 = 16 * RANGE_SIZE;

/// The user namespace of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// An exclusive range, picked once for the name and recorded.
    Pick,
    /// A range given by its first id.
    Fixed {
        /// The first host id of the range.
        base: u32,
        /// The number of ids.
        count: u32,
    },
    /// The range of the owner of the root, [`RANGE_SIZE`] ids from a multiple of it.
    OfRoot,
    /// The ids of the host, in a user namespace.
    Identity,
    /// The ids of the host without a user namespace: root inside is root of the host.
    Host,
}

impl Users {
    /// Returns whether the machine is certain to have ids that are not those of users of the host.
    pub(crate) fn are_separate(self) -> bool {
        matches!(self, Self::Pick | Self::Fixed { .. })
    }
}

/// The first id of the range for trees of machines whose ids are not chosen yet (systemd's `FOREIGN_UID_BASE`).
pub(crate) const FOREIGN_BASE: u32 = 2_147_352_576;

/// The mapping of file owners in the root to ids of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// An idmapped mount; files do not change.
    Map,
    /// The owners of the files are changed before the start, on the disk.
    Chown,
    /// No mapping.
    Off,
}
