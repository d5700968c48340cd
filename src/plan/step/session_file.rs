//! The files of a build session that its base does not have.

use std::path::PathBuf;

/// A file or directory of a build session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionFile {
    /// A file, owned by the guest's root, in the place of an existing file or link.
    Replace {
        /// Its path.
        path: PathBuf,
        /// Its content.
        content: String,
    },
    /// A home directory. An existing one stays.
    Home {
        /// Its path.
        path: PathBuf,
        /// User and group inside.
        owner: (u32, u32),
    },
}

impl SessionFile {
    /// Returns the step as one line of text.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Replace { path, .. } => format!("replace file '{}'", path.display()),
            Self::Home { path, owner: (user, group) } => {
                format!("create home directory '{}' of {user}:{group}", path.display())
            }
        }
    }
}
