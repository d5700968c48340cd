//! The program that a supervisor runs: an update replaces the file, and the running process goes on with the old one.

use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A program as it was executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Program {
    /// Where it was.
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    /// When it was modified, nanoseconds since the epoch.
    modified: i64,
}

impl Program {
    /// The program of this process. `None` if its path is unknown.
    pub fn current() -> Option<Self> {
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

    /// Whether another file has taken its place. A program that was deleted has none.
    pub fn is_replaced(&self) -> bool {
        std::fs::metadata(&self.path)
            .is_ok_and(|data| data.is_file() && Self::of(self.path.clone(), &data) != *self)
    }

    /// Where it was.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The path of the program of this process, also if another file is there by now.
fn current_path() -> Option<PathBuf> {
    let link = std::fs::read_link("/proc/self/exe").ok()?;
    let bytes = link.as_os_str().as_bytes();
    let path = PathBuf::from(OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes)));
    // A program that was executed from a mount of its own is named by its first argument only.
    let named = std::env::args_os().next().map(PathBuf::from);
    [Some(path), named].into_iter().flatten().find(|path| path.is_absolute() && path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_at_its_path_replaces_a_program() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        std::fs::write(&path, "one").unwrap();
        let program = Program::of(path.clone(), &std::fs::metadata(&path).unwrap());
        assert!(!program.is_replaced());
        let other = directory.path().join("other");
        std::fs::write(&other, "one").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(program.is_replaced());
        std::fs::remove_file(&path).unwrap();
        assert!(!program.is_replaced());
        assert!(!Program::current().unwrap().is_replaced());
    }
}
