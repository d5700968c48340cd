//! Trees of files: walks, writes, archives, measures and removes them. Entries are
//! opened by descriptor, and no symbolic link is followed: the trees belong to guests. Called by `control`, `image`
//! and `supervisor`. It knows no machine and shows nothing: an [`entry::Monitor`] of the caller does.

pub(crate) mod copy;
mod descent;
pub(crate) mod entry;
pub(crate) mod id_mapping;
pub(crate) mod live_copy;
mod long_path;
pub(crate) mod overlay_marks;
pub(crate) mod owners;
pub(crate) mod projects;
pub mod tar;
pub(crate) mod tree_writer;
pub(crate) mod usage;
pub(crate) mod walk;
mod xattr;
