//! The partitions of a disk: those of a GPT by their types, the only Linux partition of a master boot record,
//! or the whole disk if it is a file system. Called by `disk` and by the fuzz target `partitions`.

use super::bytes::DiskBytes;
use super::gpt::{self, GptPartition};
use super::mbr::{self, MbrPartition};
use super::partition_types::{self, Meaning, Role};
use super::superblock::{self, Content, FileSystem};
use crate::error::{Context, Error, Result};
use crate::image::version;

/// `SD_GPT_FLAG_NO_AUTO`: the partition is not used automatically.
const NO_AUTO: u64 = 1 << 63;
/// `SD_GPT_FLAG_READ_ONLY`: the partition is mounted read-only.
const READ_ONLY: u64 = 1 << 60;

/// A partition with a use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its use.
    pub role: Role,
    /// Its number; 0 for the whole disk.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Its size, bytes.
    pub size: u64,
    /// Whether the table forbids to write to it.
    pub read_only: bool,
    /// Its content.
    pub content: Content,
    /// Whether the disk has a signature of its hashes.
    pub signed: bool,
}

impl Partition {
    /// Returns whether it has a FAT.
    pub fn is_fat(&self) -> bool {
        self.content == Content::FileSystem(FileSystem::Vfat)
    }

    /// Returns whether it can be written to. The file system of an encrypted one is not known.
    pub fn is_writable(&self) -> bool {
        let is_possible = match self.content {
            Content::FileSystem(found) => found.is_writable(),
            Content::Encrypted => true,
            Content::Verity | Content::Swap | Content::Unknown => false,
        };
        !self.read_only && is_possible
    }
}

/// Reads the partitions of a disk that a machine uses, the root or `/usr` first. None of them lies outside of
/// the disk, and none overlaps another one.
///
/// # Errors
/// The disk cannot be read, is damaged, or has neither root nor `/usr`.
pub fn read(disk: &(impl DiskBytes + ?Sized)) -> Result<Vec<Partition>> {
    let reading = || "cannot read the disk";
    let table = mbr::partitions(disk).context(reading)?.unwrap_or_default();
    if table.iter().any(|entry| entry.is_protective()) {
        match gpt::find(disk).context(reading)? {
            gpt::Found::Table(entries) => return of_gpt(disk, entries),
            gpt::Found::Damaged(reason) => {
                return Err(Error::new(format!("its partition table (GPT) is damaged: {reason}"))
                    .with_hint("repair it with gdisk(8), or use another copy of the image"));
            }
            gpt::Found::None => {}
        }
    }
    // Before the entries of a boot record: the first sector of FAT has the same mark.
    match superblock::probe(disk, 0, disk.size()).context(reading)? {
        Content::Unknown => {}
        content => {
            if let Content::FileSystem(kind) = content {
                refuse_incomplete(disk, kind)?;
            }
            return whole(disk.size(), content);
        }
    }
    of_mbr(disk, &table)
}

/// Refuses a disk that ends before its file system.
fn refuse_incomplete(disk: &(impl DiskBytes + ?Sized), kind: FileSystem) -> Result<()> {
    let stated = superblock::stated_size(disk, kind).context(|| "cannot read the disk")?;
    if stated <= disk.size() {
        return Ok(());
    }
    let size = disk.size();
    Err(Error::new(format!("its file system ({kind}) has {stated} bytes, and the disk only {size}"))
        .with_hint("the image is incomplete: copy or download it again"))
}

/// Returns the partition of a disk that is a file system itself.
fn whole(size: u64, content: Content) -> Result<Vec<Partition>> {
    let partition =
        Partition { role: Role::Root, number: 0, start: 0, size, read_only: false, content, signed: false };
    match content {
        Content::FileSystem(_) | Content::Encrypted => Ok(vec![partition]),
        _ => Err(nothing()),
    }
}

/// Returns the only Linux partition of a master boot record.
fn of_mbr(disk: &(impl DiskBytes + ?Sized), table: &[MbrPartition]) -> Result<Vec<Partition>> {
    let mut linux = table.iter().filter(|entry| entry.is_linux());
    let entry = match (linux.next(), linux.next()) {
        (None, _) => return Err(nothing()),
        (Some(_), Some(_)) => {
            return Err(Error::new("its partition table (MBR) has several Linux partitions")
                .with_hint("use an image with a GPT, which names the root"));
        }
        (Some(entry), None) => entry,
    };
    if entry.start == 0 || entry.start.checked_add(entry.size).is_none_or(|end| end > disk.size()) {
        return Err(Error::new(format!("partition {} lies outside of the disk", entry.number)));
    }
    let content = superblock::probe(disk, entry.start, entry.size).context(|| "cannot read the partition")?;
    Ok(vec![Partition {
        role: Role::Root,
        number: entry.number,
        start: entry.start,
        size: entry.size,
        read_only: false,
        content,
        signed: false,
    }])
}

/// Chooses partitions by their types: of several for the root or `/usr` the newest by their names, of others
/// the first.
fn of_gpt(disk: &(impl DiskBytes + ?Sized), entries: Vec<GptPartition>) -> Result<Vec<Partition>> {
    let mut chosen: Vec<(Role, GptPartition)> = Vec::new();
    let (mut generic, mut signed, mut foreign) = (Vec::new(), Vec::new(), None);
    for entry in entries {
        foreign = foreign.or_else(|| partition_types::foreign(entry.kind));
        let Some(meaning) = partition_types::meaning(entry.kind) else { continue };
        match meaning {
            Meaning::Signature(role) => signed.push(role),
            // The flags of an EFI system partition are other ones.
            Meaning::Role(Role::Esp) => {
                choose(&mut chosen, Role::Esp, GptPartition { attributes: 0, ..entry })
            }
            _ if entry.attributes & NO_AUTO != 0 => {}
            Meaning::Role(role) => choose(&mut chosen, role, entry),
            Meaning::Generic => generic.push(entry),
        }
    }
    let has = |chosen: &[(Role, GptPartition)], role| chosen.iter().any(|(other, _)| *other == role);
    if !has(&chosen, Role::Root) && !has(&chosen, Role::Usr) {
        match (generic.pop(), generic.is_empty()) {
            (Some(only), true) => chosen.push((Role::Root, only)),
            (Some(_), false) => {
                return Err(Error::new(
                    "it has several Linux partitions, none of them with the type of the root",
                )
                .with_hint("set the type of the root partition: sfdisk --part-type DISK NUMBER UUID"));
            }
            (None, _) => return Err(without_root(foreign)),
        }
    }
    chosen.sort_by_key(|(role, entry)| (*role, entry.number));
    refuse_overlaps(&chosen)?;
    let partition = |(role, entry): (Role, GptPartition)| {
        let size = entry.end - entry.start;
        let content = superblock::probe(disk, entry.start, size).context(|| "cannot read the disk")?;
        Ok(Partition {
            role,
            number: entry.number,
            start: entry.start,
            size,
            read_only: entry.attributes & READ_ONLY != 0,
            content,
            signed: signed.contains(&role),
        })
    };
    chosen.into_iter().map(partition).collect()
}

/// Adds a partition for a role, or replaces an older one.
fn choose(chosen: &mut Vec<(Role, GptPartition)>, role: Role, entry: GptPartition) {
    let is_versioned = matches!(role, Role::Root | Role::Usr);
    match chosen.iter_mut().find(|(other, _)| *other == role) {
        None => chosen.push((role, entry)),
        Some((_, other)) if is_versioned && version::compare(&entry.label, &other.label).is_gt() => {
            *other = entry;
        }
        Some(_) => {}
    }
}

/// Refuses partitions of which a write would change another one.
fn refuse_overlaps(chosen: &[(Role, GptPartition)]) -> Result<()> {
    let mut by_start: Vec<&GptPartition> = chosen.iter().map(|(_, entry)| entry).collect();
    by_start.sort_by_key(|entry| entry.start);
    match by_start.windows(2).find(|pair| pair[0].end > pair[1].start) {
        Some(pair) => {
            Err(Error::new(format!("the partitions {} and {} overlap", pair[0].number, pair[1].number)))
        }
        None => Ok(()),
    }
}

fn nothing() -> Error {
    Error::new("there is neither a partition table nor a known file system in it").with_hint(
        "the image must be ext4, xfs, btrfs, squashfs, erofs or vfat, or have a GPT with a root partition, or an \
         MBR with one Linux partition",
    )
}

fn without_root(foreign: Option<&str>) -> Error {
    match foreign {
        Some(name) => Error::new(format!("its root partition is for another architecture, {name}")),
        None => Error::new("its partition table (GPT) has no root partition").with_hint(
            "set the type of the root partition (UAPI Discoverable Partitions Specification): sfdisk --part-type \
             DISK NUMBER UUID",
        ),
    }
}

#[cfg(test)]
mod tests;
