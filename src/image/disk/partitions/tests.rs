//! Tables built byte by byte.

use super::super::crc32::crc32;
use super::super::superblock::FileSystem;
use super::*;
use crate::machine::id128::Id128;

/// The types of the root and of its signature.
const NATIVE: [&str; 2] = if cfg!(target_arch = "x86_64") {
    ["4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "41092b05-9fc8-4523-994f-2def0408b176"]
} else if cfg!(target_arch = "x86") {
    ["44479540-f297-41b2-9af7-d131d5f0458a", "5996fc05-109c-48de-808b-23fa0830b676"]
} else {
    ["b921b045-1df0-41c3-af44-4c6f280d3fae", "6db69de6-29f4-4758-a7a5-962190f00ce3"]
};
const ROOT: &str = NATIVE[0];
const ROOT_SIGNATURE: &str = NATIVE[1];
/// The type of the root of s390x.
const FOREIGN_ROOT: &str = "5eead9a9-fe09-4a1e-a1d7-520d00531306";
const HOME: &str = "933ac7e1-2eb4-4f13-b844-0e14e2aef915";
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const GENERIC: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

/// A partition to write: its type, first and last sector, attributes and name.
type Entry<'a> = (&'a str, u64, u64, u64, &'a str);

/// Builds a disk of 400 sectors with a GPT.
fn disk(sector: usize, entries: &[Entry<'_>]) -> Vec<u8> {
    let mut disk = vec![0; 400 * sector];
    disk[446 + 4] = 0xee;
    disk[446 + 8] = 1;
    disk[446 + 12] = 0xff;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut table = vec![0; 16 << 10];
    for (slot, (kind, first, last, attributes, name)) in table.chunks_exact_mut(128).zip(entries) {
        let mut kind = *kind.parse::<Id128>().unwrap().as_bytes();
        kind[..4].reverse();
        kind[4..6].reverse();
        kind[6..8].reverse();
        slot[..16].copy_from_slice(&kind);
        for (at, number) in [(32, first), (40, last), (48, attributes)] {
            slot[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        for (unit, letter) in slot[56..].chunks_exact_mut(2).zip(name.encode_utf16()) {
            unit.copy_from_slice(&letter.to_le_bytes());
        }
    }
    for (at, place) in [(1, 2), (399, 350)] {
        let mut header = vec![0; sector];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x1_0000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        for (field, number) in
            [(24, at as u64), (32, 400 - at as u64), (40, 40), (48, 349), (72, place as u64)]
        {
            header[field..field + 8].copy_from_slice(&number.to_le_bytes());
        }
        for (field, number) in [(80, 128), (84, 128), (88, crc32(&table))] {
            header[field..field + 4].copy_from_slice(&number.to_le_bytes());
        }
        seal(&mut header);
        disk[at * sector..][..sector].copy_from_slice(&header);
        disk[place * sector..][..table.len()].copy_from_slice(&table);
    }
    disk
}

/// Writes the checksum of a header.
fn seal(header: &mut [u8]) {
    header[16..20].fill(0);
    let sum = crc32(&header[..92]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
}

fn ext4(disk: &mut [u8], start: usize) {
    disk[start + 0x438..start + 0x43a].copy_from_slice(&[0x53, 0xef]);
}

fn roles(disk: &[u8]) -> Vec<(Role, u32)> {
    read(disk).unwrap().iter().map(|found| (found.role, found.number)).collect()
}

fn refusal(disk: &[u8]) -> String {
    read(disk).unwrap_err().to_string()
}

#[test]
fn partitions_are_found_by_their_types() {
    for sector in [512, 4096] {
        let mut disk = disk(
            sector,
            &[
                (ESP, 40, 49, 1 << 63, "boot"),
                (HOME, 50, 59, 1 << 60, "home"),
                (ROOT, 60, 99, 0, "root"),
                (HOME, 100, 109, 0, "home"),
            ],
        );
        ext4(&mut disk, 60 * sector);
        let found = read(&disk[..]).unwrap();
        let roles: Vec<_> = found.iter().map(|found| (found.role, found.number)).collect();
        assert_eq!(roles, [(Role::Root, 3), (Role::Home, 2), (Role::Esp, 1)]);
        let sector = sector as u64;
        assert_eq!((found[0].start, found[0].size), (60 * sector, 40 * sector));
        assert_eq!(found[0].content, Content::FileSystem(FileSystem::Ext4));
        assert!(found[0].is_writable() && found[1].read_only && !found[2].read_only);
    }
}

#[test]
fn the_newest_root_is_used() {
    let entries = [(ROOT, 40, 49, 0, "os_9"), (ROOT, 50, 59, 0, "os_10"), (ROOT, 60, 69, 1 << 63, "os_11")];
    assert_eq!(roles(&disk(512, &entries)), [(Role::Root, 2)]);
}

#[test]
fn one_generic_partition_is_the_root() {
    let one = [(ESP, 40, 49, 0, ""), (GENERIC, 50, 59, 0, "")];
    assert_eq!(roles(&disk(512, &one)), [(Role::Root, 2), (Role::Esp, 1)]);
    let two = [(GENERIC, 40, 49, 0, ""), (GENERIC, 50, 59, 0, "")];
    assert!(refusal(&disk(512, &two)).contains("several Linux partitions"));
    let named = [two[0], (ROOT, 50, 59, 0, "")];
    assert_eq!(roles(&disk(512, &named)), [(Role::Root, 2)]);
}

#[test]
fn a_signature_is_noticed() {
    let signed = [(ROOT, 40, 49, 0, ""), (ROOT_SIGNATURE, 50, 59, 0, "")];
    assert!(read(&disk(512, &signed)[..]).unwrap()[0].signed);
}

#[test]
fn the_copy_of_a_damaged_table_is_used() {
    let entries = [(ROOT, 60, 99, 0, "root")];
    for sector in [512, 4096] {
        // The header, its signature, and an entry.
        for at in [sector + 24, sector, 2 * sector] {
            let mut disk = disk(sector, &entries);
            disk[at] ^= 1;
            assert_eq!(roles(&disk), [(Role::Root, 1)], "{sector} {at}");
            disk[399 * sector + 24] ^= 1;
            assert!(read(&disk[..]).is_err(), "{sector} {at}");
        }
    }
}

#[test]
fn tables_that_lie_are_refused() {
    for (entries, expected) in [
        (vec![(ROOT, 39, 99, 0, "")], "outside of the disk"),
        (vec![(ROOT, 60, 350, 0, "")], "outside of the disk"),
        (vec![(ROOT, 60, u64::MAX, 0, "")], "outside of the disk"),
        (vec![(ROOT, 99, 60, 0, "")], "outside of the disk"),
        (vec![(ROOT, 60, 99, 0, ""), (HOME, 99, 120, 0, "")], "the partitions 1 and 2 overlap"),
        (vec![(HOME, 99, 120, 0, "")], "has no root partition"),
        (vec![(FOREIGN_ROOT, 99, 120, 0, "")], "another architecture, s390x"),
        (Vec::new(), "has no root partition"),
    ] {
        let error = refusal(&disk(512, &entries));
        assert!(error.contains(expected), "{entries:?}: {error}");
    }
    type Change = (usize, u64, usize, &'static str);
    let changes: [Change; 7] = [
        (48, 400, 8, "a larger disk"),
        (48, u64::MAX, 8, "a larger disk"),
        (72, u64::MAX, 8, "its entries lie outside"),
        (80, 1 << 30, 4, "more than 8192 entries"),
        (84, 100, 4, "the size of its entries"),
        (8, 0, 4, "its version"),
        (24, 2, 8, "another place"),
    ];
    for (field, number, length, expected) in changes {
        let mut disk = disk(512, &[(ROOT, 60, 99, 0, "")]);
        disk[399 * 512] = 0;
        disk[512 + field..512 + field + length].copy_from_slice(&number.to_le_bytes()[..length]);
        seal(&mut disk[512..1024]);
        let error = refusal(&disk);
        assert!(error.contains(expected), "{field}: {error}");
    }
}

#[test]
fn a_disk_without_table_is_one_file_system() {
    let mut disk = vec![0; 200 << 10];
    assert!(refusal(&disk).contains("neither a partition table nor a known file system"));
    ext4(&mut disk, 0);
    let found = read(&disk[..]).unwrap();
    assert_eq!(
        (found[0].role, found[0].number, found[0].start, found[0].size),
        (Role::Root, 0, 0, 200 << 10)
    );
    // A copy of a GPT at the end, of an earlier use, does not count.
    let mut reused = self::disk(512, &[(ROOT, 60, 99, 0, "")]);
    reused[..2048].fill(0);
    ext4(&mut reused, 0);
    assert_eq!(read(&reused[..]).unwrap()[0].number, 0);
}

#[test]
fn the_linux_partition_of_a_boot_record_is_the_root() {
    let mut disk = vec![0; 400 * 512];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut entry = |number: usize, kind: u8, start: u32, size: u32| {
        let at = 446 + 16 * number;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&size.to_le_bytes());
        disk.clone()
    };
    assert!(refusal(&entry(0, 0x0c, 1, 9)).contains("neither a partition table"));
    let found = read(&entry(1, 0x83, 10, 100)[..]).unwrap();
    assert_eq!((found[0].number, found[0].start, found[0].size), (2, 10 * 512, 100 * 512));
    assert!(refusal(&entry(1, 0x83, 10, 391)).contains("lies outside of the disk"));
    assert!(refusal(&entry(1, 0x83, u32::MAX, u32::MAX)).contains("lies outside of the disk"));
    entry(1, 0x83, 10, 100);
    assert!(refusal(&entry(2, 0x83, 200, 10)).contains("several Linux partitions"));
}
