//! Recognises the file system of a partition by its superblock, as libblkid does, for the file systems that
//! Coracle mounts. Reads a few bytes and interprets none but the magic numbers: the rest is the kernel's.

use super::bytes::{DiskBytes, read};
use std::fmt;
use std::io::Result;

/// A file system that Coracle mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2, ext3 or ext4; the kernel's ext4 mounts all.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// SquashFS, read-only.
    Squashfs,
    /// EROFS, read-only.
    Erofs,
    /// FAT of 12, 16 or 32 bits.
    Vfat,
}

impl FileSystem {
    /// Returns the name of its type in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Vfat => "vfat",
        }
    }

    /// Returns whether it can be written to.
    pub fn is_writable(self) -> bool {
        !matches!(self, Self::Squashfs | Self::Erofs)
    }

    /// Returns the first version of Linux that maps its ids.
    pub fn maps_ids_since(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Xfs | Self::Vfat => "5.12",
            Self::Btrfs => "5.15",
            Self::Erofs => "5.19",
            Self::Squashfs => "6.2",
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The content of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A file system.
    FileSystem(FileSystem),
    /// An encrypted device (LUKS).
    Encrypted,
    /// The hashes of dm-verity.
    Verity,
    /// Swap space.
    Swap,
    /// Another one.
    Unknown,
}

/// Recognises what lies from an offset on.
///
/// # Errors
/// The disk cannot be read.
pub(super) fn probe(disk: &(impl DiskBytes + ?Sized), start: u64, size: u64) -> Result<Content> {
    let has = |offset: u64, magic: &[u8]| -> Result<bool> {
        // The longest magic number has eight bytes.
        if offset.saturating_add(8) > size {
            return Ok(false);
        }
        let found = read::<8>(disk, start.saturating_add(offset))?;
        Ok(found.is_some_and(|found| found.starts_with(magic)))
    };
    if has(0, b"LUKS\xba\xbe")? {
        return Ok(Content::Encrypted);
    }
    if has(0, b"verity\0\0")? {
        return Ok(Content::Verity);
    }
    let magics: [(u64, &[u8], FileSystem); 5] = [
        (0, b"hsqs", FileSystem::Squashfs),
        (0, b"XFSB", FileSystem::Xfs),
        (0x10040, b"_BHRfS_M", FileSystem::Btrfs),
        (0x400, b"\xe2\xe1\xf5\xe0", FileSystem::Erofs),
        (0x438, b"\x53\xef", FileSystem::Ext4),
    ];
    for (offset, magic, found) in magics {
        if has(offset, magic)? {
            return Ok(Content::FileSystem(found));
        }
    }
    // The size of a page: 4 to 64 KiB.
    for page in [12, 13, 14, 16].map(|bits| 1u64 << bits) {
        if has(page - 10, b"SWAPSPAC")? {
            return Ok(Content::Swap);
        }
    }
    let is_fat = has(0x36, b"FAT1")? || has(0x52, b"FAT32   ")?;
    if is_fat && read::<2>(disk, start.saturating_add(510))? == Some([0x55, 0xaa]) {
        return Ok(Content::FileSystem(FileSystem::Vfat));
    }
    Ok(Content::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes at offsets.
    type Parts<'a> = &'a [(usize, &'a [u8])];

    #[test]
    fn superblocks_are_recognised() {
        let cases: [(Parts<'_>, Content); 11] = [
            (&[(0, b"hsqs")], Content::FileSystem(FileSystem::Squashfs)),
            (&[(0, b"XFSB")], Content::FileSystem(FileSystem::Xfs)),
            (&[(0x10040, b"_BHRfS_M")], Content::FileSystem(FileSystem::Btrfs)),
            (&[(0x400, &0xe0f5_e1e2_u32.to_le_bytes())], Content::FileSystem(FileSystem::Erofs)),
            (&[(0x438, &0xef53_u16.to_le_bytes())], Content::FileSystem(FileSystem::Ext4)),
            (&[(0x52, b"FAT32   "), (510, b"\x55\xaa")], Content::FileSystem(FileSystem::Vfat)),
            (&[(0x36, b"FAT16   "), (510, b"\x55\xaa")], Content::FileSystem(FileSystem::Vfat)),
            (&[(0x36, b"FAT16   ")], Content::Unknown),
            (&[(0, b"LUKS\xba\xbe\0\x02"), (0x438, b"\x53\xef")], Content::Encrypted),
            (&[(0, b"verity\0\0")], Content::Verity),
            (&[(4086, b"SWAPSPACE2")], Content::Swap),
        ];
        for start in [0, 0x10_0000] {
            for (parts, expected) in cases {
                let mut disk = vec![0; start + 0x20000];
                for (at, bytes) in parts {
                    disk[start + at..][..bytes.len()].copy_from_slice(bytes);
                }
                let found = probe(&disk[..], start as u64, 0x20000).unwrap();
                assert_eq!(found, expected, "{parts:?}");
                // Nothing behind the end of the partition counts.
                assert_eq!(probe(&disk[..], start as u64, 2).unwrap(), Content::Unknown);
            }
        }
    }

    #[test]
    fn a_short_disk_has_no_file_system() {
        for length in [0, 1, 7, 512, 1081] {
            assert_eq!(probe(&vec![0; length][..], 0, u64::MAX).unwrap(), Content::Unknown);
        }
    }
}
