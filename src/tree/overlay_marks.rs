//! Marks of an overlay in a tree: whiteouts and attributes that its layers have. As a layer of another overlay
//! the tree would lose the files that they describe. Called by `image`.

use crate::error::{Context, Error, Result};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The greatest depth of a tree.
const DEEPEST: usize = 1000;
/// The prefix of the attributes (`Documentation/filesystems/overlayfs.rst`, `userxattr`).
const PREFIX: &[u8] = b"user.overlay.";

/// Returns the path of a file with a mark, relative to the tree. Other file systems are not entered.
///
/// # Errors
/// A directory that cannot be read, or a tree that is too deep.
pub(crate) fn find(top: BorrowedFd<'_>) -> Result<Option<PathBuf>> {
    let top = open(top, c".").context(|| "cannot open the tree")?;
    let device = rustix::fs::fstat(&top).context(|| "cannot look at the tree")?.st_dev;
    find_below(&top, Path::new(""), device, 0)
}

fn open(directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn find_below(directory: &OwnedFd, path: &Path, device: u64, depth: usize) -> Result<Option<PathBuf>> {
    let reading = || format!("cannot read '{}'", path.display());
    if depth > DEEPEST {
        return Err(Error::new(format!("the tree is more than {DEEPEST} directories deep")));
    }
    for entry in Dir::read_from(directory).context(reading)? {
        let entry = entry.context(reading)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let place = path.join(OsStr::from_bytes(name.to_bytes()));
        let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).context(reading)?;
        if found.st_dev != device {
            continue;
        }
        if is_marked(directory.as_fd(), name, &found).context(reading)? {
            return Ok(Some(place));
        }
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            let below = open(directory.as_fd(), name).context(reading)?;
            if let Some(marked) = find_below(&below, &place, device, depth + 1)? {
                return Ok(Some(marked));
            }
        }
    }
    Ok(None)
}

fn is_marked(directory: BorrowedFd<'_>, name: &CStr, found: &Stat) -> rustix::io::Result<bool> {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::CharacterDevice => Ok(found.st_rdev == 0),
        FileType::RegularFile | FileType::Directory => {
            let name = OsStr::from_bytes(name.to_bytes());
            let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
            let mut names = vec![0u8; 65536];
            match rustix::fs::llistxattr(path, &mut names[..]) {
                Err(rustix::io::Errno::NOTSUP) => Ok(false),
                length => Ok(names[..length?].split(|byte| *byte == 0).any(|name| name.starts_with(PREFIX))),
            }
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::XattrFlags;

    #[test]
    fn whiteouts_and_attributes_are_found() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let below = root.path().join("var/lib");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(below.join("file"), "").unwrap();
        std::os::unix::fs::symlink("/missing", below.join("link")).unwrap();
        rustix::fs::setxattr(below.join("file"), "user.other", b"x", XattrFlags::empty()).unwrap();
        let top = std::fs::File::open(root.path()).unwrap();
        let marked = || find(top.as_fd()).unwrap();
        assert_eq!(marked(), None);
        rustix::fs::setxattr(&below, "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        assert_eq!(marked().as_deref(), Some(Path::new("var/lib")));
        rustix::fs::removexattr(&below, "user.overlay.opaque").unwrap();
        assert_eq!(marked(), None);
        let mode = Mode::from_raw_mode(0o600);
        let directory = std::fs::File::open(&below).unwrap();
        if rustix::fs::mknodat(&directory, "gone", FileType::CharacterDevice, mode, 0).is_ok() {
            assert_eq!(marked().as_deref(), Some(Path::new("var/lib/gone")));
        }
    }
}
