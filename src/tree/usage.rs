//! The disk space of a tree. Called by `image`.

use super::descent;
use crate::error::{Context, Result};
use rustix::fd::AsFd;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use std::collections::HashSet;
use std::path::Path;

/// Returns the bytes that a directory and its files take on the disk, on its own file system. Blocks that the
/// file system shares with other files are counted.
///
/// # Errors
/// A directory that cannot be read.
pub(crate) fn of(path: &Path) -> Result<u64> {
    let reading = || format!("cannot find out the usage of '{}'", path.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty()).context(reading)?;
    let mut usage = Usage { linked: HashSet::new(), blocks: 0 };
    usage.add(&rustix::fs::fstat(&top).context(reading)?);
    let added = descent::each(top.as_fd(), &mut |entry| {
        usage.add(entry.stat);
        Ok(())
    });
    added.map_err(|error| error.context(reading()))?;
    // Of 512 bytes each (stat(2)).
    Ok(usage.blocks.saturating_mul(512))
}

struct Usage {
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
