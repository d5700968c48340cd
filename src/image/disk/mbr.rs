//! The partition table of a master boot record: four primary partitions in the first sector.

use super::bytes::{DiskBytes, field, read, u32_at};
use std::io::Result;

/// The size of a sector.
const SECTOR: u64 = 512;
/// The type of the partition that protects a GPT.
const PROTECTIVE: u8 = 0xee;
/// The type of partitions with a file system of Linux.
const LINUX: u8 = 0x83;

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MbrPartition {
    /// Its number, from 1 on.
    pub(super) number: u32,
    /// Its type.
    kind: u8,
    /// Its first byte.
    pub(super) start: u64,
    /// Its size, bytes.
    pub(super) size: u64,
}

impl MbrPartition {
    /// Returns whether it has a file system of Linux.
    pub(super) fn is_linux(self) -> bool {
        self.kind == LINUX
    }

    /// Returns whether it protects a GPT.
    pub(super) fn is_protective(self) -> bool {
        self.kind == PROTECTIVE
    }
}

/// Reads the used entries of the table. `None` if there is no table.
///
/// # Errors
/// The disk cannot be read.
pub(super) fn partitions(disk: &(impl DiskBytes + ?Sized)) -> Result<Option<Vec<MbrPartition>>> {
    let Some(sector) = read::<512>(disk, 0)?.filter(|sector| sector.ends_with(&[0x55, 0xaa])) else {
        return Ok(None);
    };
    let entry = |number: u32| {
        let entry: [u8; 16] = field(&sector, 446 + 16 * (number as usize - 1))?;
        let (start, size) = (u64::from(u32_at(&entry, 8)) * SECTOR, u64::from(u32_at(&entry, 12)) * SECTOR);
        Some(MbrPartition { number, kind: entry[4], start, size })
    };
    Ok(Some((1..=4).filter_map(entry).filter(|entry| entry.kind != 0 && entry.size != 0).collect()))
}
