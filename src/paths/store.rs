//! Atomic replacement of files. Called by `state`, by `config` for its drop-ins, and by
//! `control` for definitions.

use rustix::fs::{Mode, OFlags};
use std::io::Write;
use std::path::Path;

/// Replaces a file atomically: a reader finds the old or the new text. The temporary file is `.NAME` in the
/// same directory: names of machines do not begin with a dot, and directories of definitions ignore hidden
/// files.
///
/// # Errors
/// Any error of open(2), write(2) and rename(2).
pub(crate) fn replace(file: &Path, text: &[u8], mode: u32) -> std::io::Result<()> {
    let (_, temporary) = beside(file);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let draft = rustix::fs::open(&temporary, flags, Mode::from_raw_mode(mode))?;
    std::fs::File::from(draft).write_all(text)?;
    std::fs::rename(&temporary, file)
}

/// Replaces a file like [`replace`], also on the disk: after a crash it has the old or the new text.
///
/// # Errors
/// Any error of open(2), write(2), fsync(2) and rename(2).
pub(crate) fn replace_on_disk(file: &Path, text: &[u8], mode: u32) -> std::io::Result<()> {
    let (directory, temporary) = beside(file);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mut draft: std::fs::File = rustix::fs::open(&temporary, flags, Mode::from_raw_mode(mode))?.into();
    draft.write_all(text).and_then(|()| draft.sync_all())?;
    std::fs::rename(&temporary, file)?;
    sync(directory)
}

/// Creates a file that must not exist, complete and on the disk: after a crash it is there with the whole
/// text, or not at all. The temporary file is that of [`replace`].
///
/// # Errors
/// The file exists, or any error of open(2), write(2), fsync(2) and link(2).
pub(crate) fn create(file: &Path, text: &[u8], mode: u32) -> std::io::Result<()> {
    let (directory, temporary) = beside(file);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut draft: std::fs::File = rustix::fs::open(&temporary, flags, Mode::from_raw_mode(mode))?.into();
    let created = draft
        .write_all(text)
        .and_then(|()| draft.sync_all())
        .and_then(|()| std::fs::hard_link(&temporary, file));
    std::fs::remove_file(&temporary)?;
    created.and_then(|()| sync(directory))
}

/// Deletes a file, also on the disk.
///
/// # Errors
/// Any error of unlink(2) and fsync(2).
pub(crate) fn delete(file: &Path) -> std::io::Result<()> {
    std::fs::remove_file(file).and_then(|()| sync(beside(file).0))
}

/// Returns the directory of a file, and its temporary file there.
fn beside(file: &Path) -> (&Path, std::path::PathBuf) {
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(file.file_name().unwrap_or_default());
    (file.parent().unwrap_or(Path::new("/")), file.with_file_name(hidden))
}

/// Writes the names of a directory to the disk.
fn sync(directory: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::fsync(rustix::fs::open(directory, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_created_once_and_deleted() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        create(&file, b"one", 0o600).unwrap();
        assert_eq!(create(&file, b"other", 0o600).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&file).unwrap(), b"one");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        replace_on_disk(&file, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        delete(&file).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
