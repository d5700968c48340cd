//! Finds the root in an extracted archive: the archive may have it in a directory, as those of Incus and LXC, and
//! those that were created beside the root. Called by `import`. The tree is hostile: no link is followed.

use crate::error::{Context, Result};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// The directories of a root file system, one of which it has.
const OF_ROOTS: [&str; 2] = ["usr", "etc"];
/// The root in an image of Incus or LXC, and the description beside it.
const INCUS: (&str, &str) = ("rootfs", "metadata.yaml");

/// Returns the name of the directory with the root, if the top is not the root itself.
///
/// # Errors
/// A directory that cannot be read.
pub(super) fn find(top: BorrowedFd<'_>) -> Result<Option<OsString>> {
    if is_root(top)? {
        return Ok(None);
    }
    let (root, description) = INCUS;
    if kind(top, description.as_ref())? == Some(FileType::RegularFile) && has_root(top, root.as_ref())? {
        return Ok(Some(root.into()));
    }
    let mut names = names(top)?;
    let only = names.pop().filter(|_| names.is_empty());
    only.map_or(Ok(None), |name| Ok(has_root(top, &name)?.then_some(name)))
}

/// Returns the kind of an entry. `None` if it is missing.
fn kind(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<FileType>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        found => {
            let found = found.context(|| "cannot look at the imported tree")?;
            Ok(Some(FileType::from_raw_mode(found.st_mode)))
        }
    }
}

fn is_root(directory: BorrowedFd<'_>) -> Result<bool> {
    for name in OF_ROOTS {
        if kind(directory, name.as_ref())? == Some(FileType::Directory) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_root(directory: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
    use rustix::fd::AsFd;
    if kind(directory, name)? != Some(FileType::Directory) {
        return Ok(false);
    }
    is_root(open(directory, name).context(|| "cannot open the imported tree")?.as_fd())
}

fn open(directory: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>> {
    let reading = || "cannot read the imported tree";
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).context(reading)? {
        let name = entry.context(reading)?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(OsStr::from_bytes(&name).to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::fs::{create_dir_all, write};
    use std::path::Path;

    fn found(make: impl FnOnce(&Path)) -> Option<OsString> {
        let top = tempfile::tempdir().unwrap();
        make(top.path());
        let opened = open(rustix::fs::CWD, top.path().as_os_str()).unwrap();
        find(opened.as_fd()).unwrap()
    }

    #[test]
    fn a_root_is_the_top_or_in_a_directory() {
        assert_eq!(found(|top| create_dir_all(top.join("usr")).unwrap()), None);
        assert_eq!(found(|top| create_dir_all(top.join("web/etc")).unwrap()), Some("web".into()));
        let incus = |top: &Path| {
            create_dir_all(top.join("rootfs/usr")).unwrap();
            create_dir_all(top.join("templates")).unwrap();
            write(top.join("metadata.yaml"), "").unwrap();
        };
        assert_eq!(found(incus), Some("rootfs".into()));
    }

    #[test]
    fn other_trees_stay_as_they_are() {
        assert_eq!(found(|_| ()), None);
        assert_eq!(found(|top| create_dir_all(top.join("web/data")).unwrap()), None);
        assert_eq!(found(|top| std::os::unix::fs::symlink("/", top.join("web")).unwrap()), None);
        let two =
            |top: &Path| ["a/usr", "b/usr"].iter().for_each(|name| create_dir_all(top.join(name)).unwrap());
        assert_eq!(found(two), None);
    }
}
