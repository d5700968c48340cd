//! Snapshots of Btrfs subvolumes (btrfs-ioctl(2)). Called by `image`.
#![allow(unsafe_code)]

use rustix::fd::{AsRawFd, BorrowedFd};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// `BTRFS_SUPER_MAGIC` of `linux/magic.h`.
const MAGIC: u64 = 0x9123_683e;
/// `BTRFS_FIRST_FREE_OBJECTID`: the inode of the root of every subvolume.
const FIRST_INODE: u64 = 256;
/// `_IOW(BTRFS_IOCTL_MAGIC, 23, struct btrfs_ioctl_vol_args_v2)`.
const SNAP_CREATE_V2: libc::c_ulong = 0x5000_9417;

/// `struct btrfs_ioctl_vol_args_v2` of `linux/btrfs.h`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// Returns whether a directory is the root of a Btrfs subvolume.
pub(crate) fn is_subvolume(directory: BorrowedFd<'_>) -> bool {
    let is_btrfs = rustix::fs::fstatfs(directory).is_ok_and(|found| u64::try_from(found.f_type) == Ok(MAGIC));
    is_btrfs && rustix::fs::fstat(directory).is_ok_and(|found| found.st_ino == FIRST_INODE)
}

/// `_IOWR(BTRFS_IOCTL_MAGIC, 61, struct btrfs_ioctl_get_subvol_rootref_args)`.
const GET_SUBVOL_ROOTREF: libc::c_ulong = 0xd000_943d;

/// `struct btrfs_ioctl_get_subvol_rootref_args` of `linux/btrfs.h`.
#[repr(C)]
struct NestedArguments {
    min_treeid: u64,
    rootref: [[u64; 2]; 255],
    num_items: u8,
    align: [u8; 7],
}

/// Returns whether a subvolume has none inside, which a snapshot would not include. `false` if it is unknown.
pub(crate) fn is_alone(subvolume: BorrowedFd<'_>) -> bool {
    const { assert!(size_of::<NestedArguments>() == 4096) };
    let mut arguments =
        NestedArguments { min_treeid: 0, rootref: [[0; 2]; 255], num_items: 0, align: [0; 7] };
    let pointer = std::ptr::from_mut(&mut arguments);
    // SAFETY: the arguments live across the call and have the size in its number.
    let result = unsafe { libc::ioctl(subvolume.as_raw_fd(), GET_SUBVOL_ROOTREF as _, pointer) };
    result == 0 && arguments.num_items == 0
}

/// Creates a writable snapshot of a subvolume under a name in a directory of the same file system.
///
/// # Errors
/// Any error of the ioctl, `ENAMETOOLONG` for a long name.
pub(crate) fn snapshot(
    subvolume: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &OsStr,
) -> std::io::Result<()> {
    const { assert!(size_of::<VolumeArguments>() == 4096) };
    let mut arguments = VolumeArguments {
        fd: i64::from(subvolume.as_raw_fd()),
        transid: 0,
        flags: 0,
        unused: [0; 4],
        name: [0; 4040],
    };
    let bytes = name.as_bytes();
    // The last byte stays zero.
    let place = arguments.name.get_mut(..bytes.len()).filter(|place| place.len() < 255);
    place.ok_or(rustix::io::Errno::NAMETOOLONG)?.copy_from_slice(bytes);
    // SAFETY: the arguments live across the call, have the size in its number, and the name ends with zero.
    let result =
        unsafe { libc::ioctl(directory.as_raw_fd(), SNAP_CREATE_V2 as _, std::ptr::from_ref(&arguments)) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
