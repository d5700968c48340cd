//! The program of a supervisor: an update replaces the file, while the running process keeps the old one.

use crate::sys::entry;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A program at the time of its execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Executable {
    /// Its path.
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    /// Modification time, nanoseconds since the epoch.
    modified: i64,
}

impl Executable {
    /// Returns the program of this process. `None` if its path is unknown.
    pub(crate) fn current() -> Option<Self> {
        let data = std::fs::metadata("/proc/self/exe").ok()?;
        Some(Self::of(current_path()?, &data))
    }

    fn of(path: PathBuf, data: &Metadata) -> Self {
        Self {
            path,
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: data.mtime().wrapping_mul(1_000_000_000).wrapping_add(data.mtime_nsec()),
        }
    }

    /// Returns whether another file has replaced it. `false` if it was deleted.
    pub(crate) fn is_replaced(&self) -> bool {
        std::fs::metadata(&self.path)
            .is_ok_and(|data| data.is_file() && Self::of(self.path.clone(), &data) != *self)
    }

    /// Returns its device and inode.
    pub(crate) fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns the path of the program of this process, even if another file has replaced it.
fn current_path() -> Option<PathBuf> {
    let link = std::fs::read_link("/proc/self/exe").ok()?;
    let bytes = link.as_os_str().as_bytes();
    let path = PathBuf::from(OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes)));
    // The first argument is the only name of a program executed from a detached mount, whose root it is.
    let named = entry::arguments().into_iter().next().map(PathBuf::from);
    let linked = Some(path).filter(|path| path != Path::new("/"));
    [linked, named].into_iter().flatten().find(|path| path.is_absolute() && path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_at_its_path_replaces_a_program() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        std::fs::write(&path, "one").unwrap();
        let program = Executable::of(path.clone(), &std::fs::metadata(&path).unwrap());
        assert!(!program.is_replaced());
        let other = directory.path().join("other");
        std::fs::write(&other, "one").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(program.is_replaced());
        std::fs::remove_file(&path).unwrap();
        assert!(!program.is_replaced());
        assert!(!Executable::current().unwrap().is_replaced());
    }
}
