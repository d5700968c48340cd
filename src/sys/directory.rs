//! Names of small directories, by few calls.

use rustix::fs::{Mode, OFlags, RawDir};
use std::ffi::{OsStr, OsString};
use std::io::Result;
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

#[cfg(test)]
mod tests {
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
