//! Which user ids of the host stand for the machine's.

/// How many ids a machine's range has.
pub const RANGE_SIZE: u32 = 65536;

/// How many ids a machine has that runs containers: enough for the ranges which podman and coracle take inside, from
/// 100000 and from 524288 on.
pub const NESTING_RANGE_SIZE: u32 = 16 * RANGE_SIZE;

/// The user namespace of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// A range of its own, picked once by name, recorded, and shared with no other machine.
    Pick,
    /// A range given by its first id.
    Fixed {
        /// The first host id of the range.
        base: u32,
        /// How many ids it has.
        count: u32,
    },
    /// The ids of the host as they are, in a namespace of their own.
    Identity,
    /// No user namespace: root inside is root of the host.
    Host,
}

/// How files of the root get to the machine's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// By an idmapped mount; nothing on disk changes.
    Map,
    /// They are taken as they are.
    Off,
}
