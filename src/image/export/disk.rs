//! Exports a disk image as it is. Holes stay holes in a plain file; in a stream they are zeros. Called by
//! `export`.

use super::encode::Encoder;
use crate::error::{Context, Error, Result};
use crate::image::import::Compression;
use crate::tree::copy::CopyProgress;
use rustix::fs::{Mode, OFlags, SeekFrom};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The bytes per read.
const PART: u64 = 1 << 20;

/// Writes a disk image. Returns the bytes of its data.
///
/// # Errors
/// A file that cannot be read or written.
pub(super) fn write(
    image: &Path,
    to: File,
    compression: Compression,
    progress: &mut CopyProgress<'_>,
) -> Result<u64> {
    let opening = || format!("cannot open '{}'", image.display());
    let from = rustix::fs::open(image, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(opening)?;
    let from = File::from(from);
    // Also that of a block device.
    let size = rustix::fs::seek(&from, SeekFrom::End(0)).context(opening)?;
    let is_file = to.metadata().is_ok_and(|found| found.is_file());
    if compression == Compression::Plain && is_file {
        return copy_data(&from, &to, size, progress);
    }
    let mut to = BufWriter::with_capacity(256 << 10, Encoder::new(to, compression)?);
    let mut part = vec![0u8; usize::try_from(PART).unwrap_or_default()];
    let mut at = 0;
    while at < size {
        let part = chunk(&mut part, size - at);
        read(&from, part, at)?;
        to.write_all(part).context(|| "cannot write the export")?;
        at += part.len() as u64;
        progress(at)?;
    }
    to.into_inner().map_err(|error| Error::from(error.into_error())).and_then(Encoder::finish)?;
    Ok(size)
}

/// Copies the data of an image, without its holes.
fn copy_data(from: &File, to: &File, size: u64, progress: &mut CopyProgress<'_>) -> Result<u64> {
    let mut part = vec![0u8; usize::try_from(PART).unwrap_or_default()];
    let (mut at, mut copied) = (0, 0);
    while at < size {
        match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => at = data,
            Err(rustix::io::Errno::NXIO) => break,
            // A block device has no holes.
            Err(_) => {}
        }
        let end = rustix::fs::seek(from, SeekFrom::Hole(at)).ok().filter(|hole| *hole > at).unwrap_or(size);
        while at < end {
            let part = chunk(&mut part, end - at);
            read(from, part, at)?;
            to.write_all_at(part, at).context(|| "cannot write the export")?;
            (at, copied) = (at + part.len() as u64, copied + part.len() as u64);
            progress(copied)?;
        }
    }
    to.set_len(size).context(|| "cannot write the export")?;
    Ok(copied)
}

fn chunk(part: &mut [u8], left: u64) -> &mut [u8] {
    let length = usize::try_from(left.min(PART)).unwrap_or_default();
    part.get_mut(..length).unwrap_or_default()
}

fn read(from: &File, part: &mut [u8], at: u64) -> Result<()> {
    from.read_exact_at(part, at).context(|| "cannot read the disk image")
}
