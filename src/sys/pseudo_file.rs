//! Small files, for example of procfs, sysfs and cgroup2, by few calls. The kernel writes the text of its
//! files in one piece, so that one read suffices; the standard library makes three more calls.

use rustix::fs::{Mode, OFlags};
use std::io::Result;
use std::path::Path;

/// The size of the buffer: a page, the greatest text of sysfs.
const SIZE: usize = 4096;

/// Reads a file as text. One read suffices unless the text fills a page.
///
/// # Errors
/// Any error of open(2) and read(2), or invalid UTF-8.
pub(crate) fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // On the heap, where only the written part of it is used.
    let mut buffer = Vec::with_capacity(SIZE);
    let count = rustix::io::read(&file, rustix::buffer::spare_capacity(&mut buffer))?;
    if count >= SIZE {
        return read_long(path);
    }
    buffer.shrink_to_fit();
    String::from_utf8(buffer).map_err(std::io::Error::other)
}

/// Reads a file of more than a page. Apart from the others, which need no stack for it.
#[inline(never)]
fn read_long(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
}

/// Writes an existing file of the kernel by one write.
///
/// # Errors
/// Any error of open(2) and write(2), or `WriteZero` if not all was written.
pub(crate) fn write(path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> Result<()> {
    let text = text.as_ref();
    let file = rustix::fs::open(path.as_ref(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let count = rustix::io::write(&file, text)?;
    if count == text.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_existing_files_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        assert_eq!(super::write(&file, "one").unwrap_err().kind(), std::io::ErrorKind::NotFound);
        std::fs::write(&file, "").unwrap();
        super::write(&file, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "two");
        assert!(super::write("/dev/full", "one").is_err());
    }

    #[test]
    fn short_long_and_missing_files() {
        let status = super::read("/proc/self/status").unwrap();
        assert!(status.starts_with("Name:") && status.ends_with('\n'));
        let directory = tempfile::tempdir().unwrap();
        for length in [0, 1, super::SIZE, super::SIZE + 1] {
            let (file, text) = (directory.path().join("file"), "x".repeat(length));
            std::fs::write(&file, &text).unwrap();
            assert_eq!(super::read(&file).unwrap(), text);
        }
        let missing = super::read(directory.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    }
}
