//! The mount points of partitions below the root (UAPI Discoverable Partitions Specification). Called by
//! `attach`.

use super::partition_types::Role;
use super::partitions::Partition;
use crate::error::Result;
use crate::sys::guest_files::GuestRoot;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::Dir;
use std::path::{Path, PathBuf};

/// Returns the mount point of a partition. `None` for a partition of boot loaders whose directory is missing
/// or not empty in the root.
///
/// # Errors
/// No free descriptors.
pub(in crate::image) fn of(
    partition: &Partition,
    root: &OwnedFd,
    all: &[Partition],
) -> Result<Option<PathBuf>> {
    let root = GuestRoot::of_mount(root.as_fd())?;
    let is_empty = |path: &&str| {
        let directory = root.open_directory(Path::new(path)).ok();
        let mut entries = directory.and_then(|directory| Dir::read_from(directory).ok());
        let is_own = |name: &std::ffi::CStr| !matches!(name.to_bytes(), b"." | b"..");
        entries
            .as_mut()
            .is_some_and(|entries| entries.all(|entry| entry.is_ok_and(|entry| !is_own(entry.file_name()))))
    };
    let has_xbootldr = all.iter().any(|other| other.role == Role::Xbootldr);
    let target = match partition.role {
        Role::Home => Some("/home"),
        Role::Srv => Some("/srv"),
        Role::Tmp => Some("/var/tmp"),
        Role::Var => Some("/var"),
        Role::Xbootldr => Some("/boot").filter(is_empty),
        Role::Esp if has_xbootldr => Some("/efi").filter(is_empty),
        Role::Esp => ["/efi", "/boot"].into_iter().find(is_empty),
        Role::Root | Role::Usr => None,
    };
    Ok(target.map(PathBuf::from))
}
