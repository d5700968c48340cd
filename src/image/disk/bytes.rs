//! The bytes of a disk, read at offsets. Called by the readers of partition tables and superblocks.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;

/// A disk of which parts are read.
pub trait DiskBytes {
    /// Returns its size, bytes.
    fn size(&self) -> u64;

    /// Fills a buffer from an offset on.
    ///
    /// # Errors
    /// The disk ends before, or cannot be read.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

impl DiskBytes for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset).ok();
        let range = from.and_then(|from| Some(from..from.checked_add(buffer.len())?));
        let found = range.and_then(|range| self.get(range)).ok_or(ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }
}

/// An open file or block device.
#[derive(Debug)]
pub struct OpenDisk {
    file: File,
    size: u64,
}

impl OpenDisk {
    /// Returns a disk of this size.
    pub fn new(file: File, size: u64) -> Self {
        Self { file, size }
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl DiskBytes for OpenDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// Reads a part. `None` if the disk ends before.
///
/// # Errors
/// The disk cannot be read.
pub(super) fn read<const LENGTH: usize>(
    disk: &(impl DiskBytes + ?Sized),
    offset: u64,
) -> Result<Option<[u8; LENGTH]>> {
    let mut buffer = [0; LENGTH];
    Ok(read_into(disk, offset, &mut buffer)?.then_some(buffer))
}

/// Reads a part whose length is known at run time: the caller limits it. `None` if the disk ends before.
///
/// # Errors
/// The disk cannot be read.
pub(super) fn read_vec(
    disk: &(impl DiskBytes + ?Sized),
    offset: u64,
    length: usize,
) -> Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; length];
    Ok(read_into(disk, offset, &mut buffer)?.then_some(buffer))
}

fn read_into(disk: &(impl DiskBytes + ?Sized), offset: u64, buffer: &mut [u8]) -> Result<bool> {
    match offset.checked_add(buffer.len() as u64) {
        Some(end) if end <= disk.size() => {}
        _ => return Ok(false),
    }
    match disk.read(offset, buffer) {
        Ok(()) => Ok(true),
        // The file has become shorter.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(Error::other("the disk became shorter"))
        }
        Err(error) => Err(error),
    }
}

/// Returns the little-endian number of four bytes at an offset; 0 outside.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    field(bytes, at).map_or(0, u32::from_le_bytes)
}

/// Returns the little-endian number of eight bytes at an offset; 0 outside.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    field(bytes, at).map_or(0, u64::from_le_bytes)
}

/// Returns a field of fixed length. `None` outside.
pub(super) fn field<const LENGTH: usize>(bytes: &[u8], at: usize) -> Option<[u8; LENGTH]> {
    bytes.get(at..)?.first_chunk().copied()
}
