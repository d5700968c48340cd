//! Writes a disk image from a stream: ranges of zeros become holes. Called by `extractor`.

use crate::error::{Context, Error, Result};
use rustix::fd::BorrowedFd;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

/// The name of the file in the draft.
pub(super) const NAME: &str = "disk";
/// The length of ranges that are a hole or data as a whole, bytes.
const RANGE: usize = 64 << 10;

/// Writes a stream to a new file in a directory. Returns the bytes of its data. `largest` limits them.
///
/// # Errors
/// A stream that is too long, or a file that cannot be written.
pub(super) fn write(mut stream: impl Read, directory: BorrowedFd<'_>, largest: u64) -> Result<u64> {
    let writing = || "cannot write the disk image";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, NAME, flags, Mode::RUSR | Mode::WUSR).context(writing)?;
    let file = File::from(file);
    let mut part = vec![0; RANGE];
    let (mut at, mut written) = (0u64, 0u64);
    loop {
        let mut filled = 0;
        while let Some(place) = part.get_mut(filled..).filter(|place| !place.is_empty()) {
            match stream.read(place) {
                Ok(0) => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => filled += read.context(|| "cannot read the source")?,
            }
        }
        let data = part.get(..filled).unwrap_or_default();
        if data.is_empty() {
            break;
        }
        if data.iter().any(|byte| *byte != 0) {
            written += data.len() as u64;
            if written > largest {
                return Err(Error::new(format!("the disk image has more than {largest} bytes of data"))
                    .with_hint("set another limit: --max-size=SIZE"));
            }
            file.write_all_at(data, at).context(writing)?;
        }
        at += data.len() as u64;
    }
    file.set_len(at).context(writing)?;
    Ok(written)
}
