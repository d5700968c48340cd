//! Names of small directories, by few calls.

use rustix::fd::BorrowedFd;
use rustix::fs::{FileType, Mode, OFlags, RawDir};
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Result};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The size of the buffer: the names of a directory of Coracle's own fit.
const SIZE: usize = 2048;

/// Returns the names in a directory, in the order of its file system. The standard library makes three more
/// calls.
///
/// # Errors
/// Any error of open(2) and getdents(2).
pub(crate) fn names(path: &Path) -> Result<Vec<OsString>> {
    let directory =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); SIZE];
    let mut entries = RawDir::new(&directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// The names and types of the files in a directory, in one piece of memory.
#[derive(Debug)]
pub(crate) struct FileKinds {
    /// Each file: its type, as the highest four bits of its mode, the length of its name, and the name.
    packed: Vec<u8>,
}

impl FileKinds {
    /// Reads the entries of an open directory. Those of processes are left out.
    ///
    /// # Errors
    /// Any error of getdents(2), or a file system that does not tell types.
    pub(crate) fn read(directory: BorrowedFd<'_>) -> Result<Self> {
        let mut buffer = [MaybeUninit::uninit(); SIZE];
        let mut entries = RawDir::new(directory, &mut buffer);
        let mut packed = Vec::with_capacity(SIZE / 2);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let Ok(length) = u8::try_from(name.len()) else { continue };
            if entry.file_type() == FileType::Unknown {
                return Err(ErrorKind::Unsupported.into());
            }
            if !name.first().is_some_and(u8::is_ascii_digit) {
                let kind = u8::try_from(entry.file_type().as_raw_mode() >> 12).unwrap_or_default();
                packed.extend([kind, length]);
                packed.extend_from_slice(name);
            }
        }
        Ok(Self { packed })
    }

    /// Returns the type of a file. `None` if there is no file of this name.
    pub(crate) fn find(&self, name: &OsStr) -> Option<FileType> {
        let mut rest = self.packed.as_slice();
        while let [kind, length, after @ ..] = rest {
            let (this, next) = after.split_at_checked(usize::from(*length))?;
            if this == name.as_bytes() {
                return Some(FileType::from_raw_mode(u32::from(*kind) << 12));
            }
            rest = next;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn types_of_files_are_found_by_name() {
        let proc = std::fs::File::open("/proc").unwrap();
        let kinds = FileKinds::read(proc.as_fd()).unwrap();
        let find = |name: &str| kinds.find(OsStr::new(name));
        assert_eq!(find("self"), Some(FileType::Symlink));
        assert_eq!(find("sys"), Some(FileType::Directory));
        assert_eq!(find("uptime"), Some(FileType::RegularFile));
        assert_eq!((find("up"), find("uptime2"), find("")), (None, None, None));
    }

    #[test]
    fn all_names_of_small_and_large_directories() {
        let directory = tempfile::tempdir().unwrap();
        assert!(super::names(directory.path()).unwrap().is_empty());
        for number in 0..200 {
            std::fs::write(directory.path().join(format!("file-with-a-longer-name-{number:03}")), "")
                .unwrap();
        }
        let mut names = super::names(directory.path()).unwrap();
        names.sort();
        assert_eq!(names.len(), 200);
        assert_eq!(names[199], "file-with-a-longer-name-199");
        let missing = super::names(&directory.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    }
}
