//! Recognises the file system of a partition by its superblock, as libblkid does, for the file systems that
//! Coracle mounts. Reads a few bytes and interprets none but the magic numbers and the sizes: the rest is the kernel's.

use super::bytes::{DiskBytes, field, read, u32_at, u64_at};
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

/// Returns the size that the superblock of a file system states, bytes: the kernel mounts none that is larger than its
/// device. 0 if the superblock states none. The fields are those of `ext4/ondisk` and `erofs` in the kernel's
/// documentation, of `xfs_dsb`, `btrfs_super_block` and `squashfs_super_block` in its source, and of the boot sector of
/// FAT.
///
/// # Errors
/// The disk cannot be read.
pub(super) fn stated_size(disk: &(impl DiskBytes + ?Sized), kind: FileSystem) -> Result<u64> {
    let offset = match kind {
        FileSystem::Ext4 | FileSystem::Erofs => 0x400,
        FileSystem::Btrfs => 0x1_0000,
        FileSystem::Xfs | FileSystem::Squashfs | FileSystem::Vfat => 0,
    };
    let block = read::<0x200>(disk, offset)?.unwrap_or([0; 0x200]);
    let u16_at = |at| field(&block, at).map_or(0, u16::from_le_bytes);
    let shifted = |count: u64, bits: u32| count.checked_mul(1u64.checked_shl(bits).unwrap_or(u64::MAX));
    let size = match kind {
        FileSystem::Ext4 => {
            let has_high = u32_at(&block, 0x60) & 0x80 != 0;
            let high = if has_high { u32_at(&block, 0x150) } else { 0 };
            let blocks = u64::from(high) << 32 | u64::from(u32_at(&block, 4));
            shifted(blocks, u32_at(&block, 0x18).saturating_add(10))
        }
        FileSystem::Xfs => {
            let size = field(&block, 4).map_or(0, u32::from_be_bytes);
            field(&block, 8).map_or(0, u64::from_be_bytes).checked_mul(size.into())
        }
        // That of its own device.
        FileSystem::Btrfs => Some(u64_at(&block, 0xd1)),
        FileSystem::Squashfs => Some(u64_at(&block, 40)),
        FileSystem::Erofs => shifted(u32_at(&block, 36).into(), block[12].into()),
        FileSystem::Vfat => {
            let short = u64::from(u16_at(0x13));
            let sectors = if short == 0 { u32_at(&block, 0x20).into() } else { short };
            Some(sectors * u64::from(u16_at(0x0b)))
        }
    };
    Ok(size.unwrap_or(u64::MAX))
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
    fn superblocks_state_their_size() {
        let cases: [(FileSystem, Parts<'_>); 7] = [
            // 3072 blocks of 4 KiB, without and with the upper half of their number.
            (FileSystem::Ext4, &[(0x404, &3072_u32.to_le_bytes()), (0x418, &[2]), (0x550, &[9])]),
            (FileSystem::Ext4, &[(0x404, &3072_u32.to_le_bytes()), (0x418, &[2]), (0x460, &[0x80])]),
            (FileSystem::Xfs, &[(4, &4096_u32.to_be_bytes()), (8, &3072_u64.to_be_bytes())]),
            (FileSystem::Btrfs, &[(0x100d1, &(12_u64 << 20).to_le_bytes())]),
            (FileSystem::Squashfs, &[(40, &(12_u64 << 20).to_le_bytes())]),
            (FileSystem::Erofs, &[(0x40c, &[12]), (0x424, &3072_u32.to_le_bytes())]),
            (FileSystem::Vfat, &[(0x0b, &512_u16.to_le_bytes()), (0x13, &24576_u16.to_le_bytes())]),
        ];
        for (kind, parts) in cases {
            let mut disk = vec![0; 0x20000];
            for (at, bytes) in parts {
                disk[*at..][..bytes.len()].copy_from_slice(bytes);
            }
            assert_eq!(stated_size(&disk[..], kind).unwrap(), 12 << 20, "{kind}");
            assert_eq!(stated_size(&disk[..8], kind).unwrap(), 0, "{kind}");
        }
        let mut disk = vec![0; 0x1000];
        disk[0x404..0x408].fill(0xff);
        disk[0x418] = 64;
        assert_eq!(stated_size(&disk[..], FileSystem::Ext4).unwrap(), u64::MAX);
    }

    #[test]
    fn a_short_disk_has_no_file_system() {
        for length in [0, 1, 7, 512, 1081] {
            assert_eq!(probe(&vec![0; length][..], 0, u64::MAX).unwrap(), Content::Unknown);
        }
    }
}
