//! Tar archives (pax(1), tar(5)): a reader that refuses what two readers may understand differently, the policy
//! for the entries of an archive that is not trusted, and a writer whose archives depend on the tree alone.
//! Called by `image` and `control`. Nothing here opens a file.

pub(crate) mod acl;
pub(crate) mod content;
#[cfg(test)]
mod differential;
mod extensions;
pub(crate) mod extract;
mod flat;
mod header;
mod holes;
pub(crate) mod layer;
mod pax;
pub mod policy;
pub mod reader;
mod sparse;
pub(crate) mod writer;

pub(super) use super::entry::quoted as shown;

/// The size of a block, bytes.
pub(super) const BLOCK: usize = 512;
