//! What a copy is called until it is whole, and what is done with one whose process was killed: the
//! next copy to the same directory removes it. Called by `place`.

use super::walk;
use crate::host::probe;
use crate::host::state::process_start;
use rustix::fd::BorrowedFd;
use rustix::fs::Dir;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const PREFIX: &str = ".coracle-copy-";

/// Who makes a copy: a process id means one process in one namespace and with one start only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    namespace: u64,
    pid: u32,
    start: u64,
}

impl Owner {
    fn of(pid: u32) -> Option<Self> {
        let namespace = rustix::fs::stat("/proc/self/ns/pid").ok()?.st_ino;
        Some(Self { namespace, pid, start: process_start(pid)? })
    }

    /// Whether it is a process that we would see, and it is gone.
    fn is_gone(self) -> bool {
        // Without procfs nobody can be seen at all.
        let Some(ourselves) = Self::of(std::process::id()) else { return false };
        self.namespace == ourselves.namespace && process_start(self.pid) != Some(self.start)
    }
}

/// A name that nobody else has, and that tells whose it is.
pub(super) fn new_name() -> String {
    let random = probe::random_id().iter().fold(0u64, |sum, byte| sum << 5 ^ u64::from(*byte));
    let owner = Owner::of(std::process::id());
    owner.map_or_else(
        || format!("{PREFIX}{random:x}"),
        |Owner { namespace, pid, start }| format!("{PREFIX}{namespace:x}-{pid:x}-{start:x}-{random:x}"),
    )
}

fn owner(name: &str) -> Option<Owner> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-').map(|part| u64::from_str_radix(part, 16).ok());
    let (namespace, pid, start) = (parts.next()??, parts.next()??, parts.next()??);
    Some(Owner { namespace, pid: u32::try_from(pid).ok()?, start })
}

/// Removes what copies to this directory left that were killed. What cannot be removed stays.
pub(super) fn remove(directory: BorrowedFd<'_>) {
    let Ok(entries) = Dir::read_from(directory) else { return };
    let names: Vec<Vec<u8>> = entries.flatten().map(|entry| entry.file_name().to_bytes().to_vec()).collect();
    for name in names.iter().map(|name| OsStr::from_bytes(name)) {
        if name.to_str().and_then(owner).is_some_and(Owner::is_gone) {
            match walk::remove(directory, name) {
                Ok(()) => log::info!("removed '{}', which a copy left that was killed", name.display()),
                Err(error) => log::warn!("cannot remove '{}': {error}, ignoring", name.display()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;

    #[test]
    fn what_is_left_of_killed_copies_goes_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let ours = new_name();
        let Owner { namespace, pid, start } = owner(&ours).unwrap();
        assert_eq!(pid, std::process::id());
        let other_start = format!("{PREFIX}{namespace:x}-{pid:x}-{:x}-7", start + 1);
        let other_namespace = format!("{PREFIX}{:x}-{pid:x}-{:x}-7", namespace + 1, start + 1);
        let strange = [format!("{PREFIX}7"), format!("{PREFIX}x-1-1-1"), ".coracle-copy".into(), "a".into()];
        for name in [&ours, &other_start, &other_namespace].into_iter().chain(&strange) {
            std::fs::create_dir_all(directory.path().join(name).join("below")).unwrap();
        }
        remove(std::fs::File::open(directory.path()).unwrap().as_fd());
        assert!(!directory.path().join(&other_start).exists());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 6);
    }
}
