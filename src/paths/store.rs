//! Atomic replacement of files. Called by `state` and by `config` for its drop-ins.

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
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(file.file_name().unwrap_or_default());
    let temporary = file.with_file_name(hidden);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let draft = rustix::fs::open(&temporary, flags, Mode::from_raw_mode(mode))?;
    std::fs::File::from(draft).write_all(text)?;
    std::fs::rename(&temporary, file)
}
