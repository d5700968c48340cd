//! The disk space of a tree. Called by `image`. Entries are opened by descriptor, and no link is followed.

use crate::error::{Context, Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use std::collections::HashSet;
use std::path::Path;

/// The maximum depth of a tree: each level needs a descriptor.
const DEEPEST: usize = 512;

/// Returns the bytes that a directory and its files take on the disk, on its own file system. Blocks that the
/// file system shares with other files are counted.
///
/// # Errors
/// A directory that cannot be read.
pub(crate) fn of(path: &Path) -> Result<u64> {
    let reading = || format!("cannot find out the usage of '{}'", path.display());
    let top = open(rustix::fs::CWD, path).context(reading)?;
    let stat = rustix::fs::fstat(&top).context(reading)?;
    let mut usage = Usage { device: stat.st_dev, linked: HashSet::new(), blocks: 0 };
    usage.add(&stat);
    usage.below(&top, 0).map_err(|error| error.context(reading()))?;
    // Of 512 bytes each (stat(2)).
    Ok(usage.blocks.saturating_mul(512))
}

fn open(directory: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, path, flags, Mode::empty())
}

struct Usage {
    device: u64,
    /// Files with several names that are counted already.
    linked: HashSet<u64>,
    blocks: u64,
}

impl Usage {
    fn add(&mut self, stat: &Stat) {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory || stat.st_nlink < 2 || self.linked.insert(stat.st_ino) {
            self.blocks = self.blocks.saturating_add(u64::try_from(stat.st_blocks).unwrap_or_default());
        }
    }

    fn below(&mut self, directory: &OwnedFd, depth: usize) -> Result<()> {
        if depth >= DEEPEST {
            return Err(Error::new(format!("the tree is more than {DEEPEST} directories deep")));
        }
        for entry in Dir::read_from(directory).context(|| "cannot read a directory")? {
            let entry = entry.context(|| "cannot read a directory")?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // A file may be deleted meanwhile.
            let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if stat.st_dev != self.device {
                continue;
            }
            self.add(&stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                use std::os::unix::ffi::OsStrExt;
                let name = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
                if let Ok(below) = open(directory.as_fd(), name) {
                    self.below(&below, depth + 1)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn files_are_counted_once() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let empty = super::of(root.path()).unwrap();
        std::fs::create_dir(root.path().join("below")).unwrap();
        std::fs::write(root.path().join("below/file"), vec![1; 1 << 20]).unwrap();
        let file = std::fs::File::open(root.path().join("below/file")).unwrap();
        file.sync_all().unwrap();
        std::fs::hard_link(root.path().join("below/file"), root.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/usr", root.path().join("usr")).unwrap();
        let used = super::of(root.path()).unwrap() - empty;
        assert!((1 << 20..(1 << 20) + 65536).contains(&used), "{used}");
    }
}
