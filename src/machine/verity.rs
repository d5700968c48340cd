//! The hashes that verify a disk image (dm-verity), beside those that the image or files beside it have.

use std::path::PathBuf;

/// The hashes of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Verity {
    /// The root hash, hexadecimal digits.
    pub(crate) root_hash: Option<String>,
    /// The signature of the root hash: an absolute path, or `base64:` and its text.
    pub(crate) signature: Option<String>,
    /// The file with the hashes, if they are not in the image.
    pub(crate) data: Option<PathBuf>,
}

impl Verity {
    /// Returns whether the image must be verified.
    pub(crate) fn is_required(&self) -> bool {
        *self != Self::default()
    }
}
