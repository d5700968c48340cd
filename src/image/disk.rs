//! Disk images: files and block devices with file systems. Finds their partitions (UAPI Discoverable
//! Partitions Specification) and mounts them, detached, without udev and without the kernel's reader of
//! partition tables. Called by `attach` and by the verbs on images.
//!
//! The bytes of an image are those of a guest, or of a stranger: each number is checked before it is used.

pub mod bytes;
mod crc32;
mod dissect;
mod gpt;
mod mbr;
pub(super) mod mount_points;
pub(crate) mod mounts;
mod partition_types;
pub mod partitions;
mod policy;
mod superblock;

pub(crate) use partition_types::Role;
