//! The GUID partition table (UEFI 2.10, chapter 5): its header, its entries, and the copy of both at the end
//! of the disk, which counts if the first ones are damaged.

use super::bytes::{DiskBytes, field, read_vec, u32_at, u64_at};
use super::crc32::crc32;
use crate::machine::id128::Id128;
use std::io::Result;

/// The possible sizes of sectors: the file does not say which one it was made for.
const SECTORS: [u64; 4] = [512, 1024, 2048, 4096];
/// The size of the header without reserved bytes.
const HEADER: usize = 92;
/// The maximum size of all entries: the usual size is 16 KiB.
const MAX_ENTRIES: u64 = 1 << 20;
/// The length of an entry.
const ENTRY: u64 = 128;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GptPartition {
    /// Its number, from 1 on.
    pub(super) number: u32,
    /// Its type.
    pub(super) kind: Id128,
    /// Its first byte.
    pub(super) start: u64,
    /// The first byte behind it.
    pub(super) end: u64,
    /// Its attributes.
    pub(super) attributes: u64,
    /// Its name.
    pub(super) label: String,
}

/// The result of a search for a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A table, with its partitions in the order of their numbers.
    Table(Vec<GptPartition>),
    /// There is a header, but neither it nor its copy is valid: the reason for the header.
    Damaged(&'static str),
    /// There is none.
    None,
}

/// Searches a disk for a table.
///
/// # Errors
/// The disk cannot be read.
pub(super) fn find(disk: &(impl DiskBytes + ?Sized)) -> Result<Found> {
    let mut damage = None;
    for sector in SECTORS {
        match table(disk, sector, 1)? {
            Ok(partitions) => return Ok(Found::Table(partitions)),
            Err(ABSENT) => {}
            Err(reason) => {
                damage.get_or_insert(reason);
            }
        }
    }
    for sector in SECTORS {
        let last = (disk.size() / sector).saturating_sub(1);
        if let Ok(partitions) = table(disk, sector, last)? {
            return Ok(Found::Table(partitions));
        }
    }
    Ok(damage.map_or(Found::None, Found::Damaged))
}

/// The reason if there is no header.
const ABSENT: &str = "there is no header";

/// Reads the table with the header in a sector.
fn table(
    disk: &(impl DiskBytes + ?Sized),
    sector: u64,
    at: u64,
) -> Result<std::result::Result<Vec<GptPartition>, &'static str>> {
    let Some(block) = read_vec(disk, at.saturating_mul(sector), sector as usize)? else {
        return Ok(Err(ABSENT));
    };
    if at == 0 || !block.starts_with(b"EFI PART") {
        return Ok(Err(ABSENT));
    }
    let header = match Header::parse(&block, sector, at, disk.size()) {
        Ok(header) => header,
        Err(reason) => return Ok(Err(reason)),
    };
    // At most a megabyte.
    let length = (header.count * header.entry_size) as usize;
    let Some(entries) = read_vec(disk, header.entries.saturating_mul(sector), length)? else {
        return Ok(Err("its entries lie outside of the disk"));
    };
    if crc32(&entries) != header.entries_checksum {
        return Ok(Err("the checksum of its entries is wrong"));
    }
    Ok(header.partitions(&entries, sector))
}

/// The fields of a valid header.
struct Header {
    /// The first sector of partitions.
    first_usable: u64,
    /// The last sector of partitions.
    last_usable: u64,
    /// The first sector of the entries.
    entries: u64,
    /// The number of entries.
    count: u64,
    /// The size of an entry.
    entry_size: u64,
    entries_checksum: u32,
}

impl Header {
    fn parse(block: &[u8], sector: u64, at: u64, disk: u64) -> std::result::Result<Self, &'static str> {
        let length = u32_at(block, 12) as usize;
        let fixed = block.get(..length).filter(|fixed| fixed.len() >= HEADER);
        let mut fixed = fixed.ok_or("the length of its header is wrong")?.to_vec();
        fixed[16..20].fill(0);
        if crc32(&fixed) != u32_at(block, 16) {
            return Err("the checksum of its header is wrong");
        }
        if u32_at(block, 8) >> 16 != 1 {
            return Err("its version is unknown");
        }
        if u64_at(block, 24) != at {
            return Err("its header was made for another place");
        }
        let header = Self {
            first_usable: u64_at(block, 40),
            last_usable: u64_at(block, 48),
            entries: u64_at(block, 72),
            count: u64::from(u32_at(block, 80)),
            entry_size: u64::from(u32_at(block, 84)),
            entries_checksum: u32_at(block, 88),
        };
        if header.entry_size < ENTRY || !header.entry_size.is_power_of_two() {
            return Err("the size of its entries is wrong");
        }
        if header.count.saturating_mul(header.entry_size) > MAX_ENTRIES {
            return Err("it has more than 8192 entries");
        }
        let end = header.last_usable.checked_add(1).and_then(|end| end.checked_mul(sector));
        if header.first_usable > header.last_usable || end.is_none_or(|end| end > disk) {
            return Err("it was made for a larger disk");
        }
        Ok(header)
    }

    /// Returns the partitions of the entries.
    fn partitions(
        &self,
        entries: &[u8],
        sector: u64,
    ) -> std::result::Result<Vec<GptPartition>, &'static str> {
        let mut found = Vec::new();
        for (number, entry) in (1..).zip(entries.chunks_exact(self.entry_size as usize)) {
            let kind = uuid(field(entry, 0).unwrap_or_default());
            if kind.is_null() {
                continue;
            }
            let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
            if first < self.first_usable || last > self.last_usable || first > last {
                return Err("a partition lies outside of the disk");
            }
            // Neither overflows: the last sector lies in the disk.
            let (start, end) = (first * sector, (last + 1) * sector);
            let attributes = u64_at(entry, 48);
            found.push(GptPartition { number, kind, start, end, attributes, label: label(entry) });
        }
        Ok(found)
    }
}

/// Returns the id of a GUID, of which the first three parts are little-endian (UEFI 2.10, appendix A).
fn uuid(mut bytes: [u8; 16]) -> Id128 {
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Id128::new(bytes)
}

/// Returns the name of a partition: UTF-16, padded with zeros.
fn label(entry: &[u8]) -> String {
    let units = entry.get(56..128).unwrap_or_default().chunks_exact(2);
    let units = units.filter_map(|unit| field(unit, 0)).map(u16::from_le_bytes);
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}
