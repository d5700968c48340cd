//! Btrfs subvolumes and their snapshots (btrfs-ioctl(2)). Called by `image` and `control`.
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
/// `_IOW(BTRFS_IOCTL_MAGIC, 14, struct btrfs_ioctl_vol_args)`.
const SUBVOL_CREATE: libc::c_ulong = 0x5000_940e;
/// `_IOW(BTRFS_IOCTL_MAGIC, 15, struct btrfs_ioctl_vol_args)`.
const SNAP_DESTROY: libc::c_ulong = 0x5000_940f;
/// `BTRFS_SUBVOL_RDONLY`.
const SUBVOL_RDONLY: u64 = 2;

/// `struct btrfs_ioctl_vol_args` of `linux/btrfs.h`.
#[repr(C)]
struct NameArguments {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2` of `linux/btrfs.h`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// Returns whether a directory lies on Btrfs.
pub(crate) fn lies_on(directory: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(directory).is_ok_and(|found| u64::try_from(found.f_type) == Ok(MAGIC))
}

/// Returns whether a directory is the root of a Btrfs subvolume.
pub(crate) fn is_subvolume(directory: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(directory).is_ok_and(|found| found.st_ino == FIRST_INODE) && lies_on(directory)
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

/// Whether a subvolume can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It can.
    Writable,
    /// It cannot.
    ReadOnly,
}

/// Creates a snapshot of a subvolume under a name in a directory of the same file system.
///
/// # Errors
/// Any error of the ioctl, `ENAMETOOLONG` for a long name.
pub(crate) fn snapshot(
    subvolume: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &OsStr,
    access: Access,
) -> std::io::Result<()> {
    let flags = if access == Access::ReadOnly { SUBVOL_RDONLY } else { 0 };
    let arguments = VolumeArguments::of(i64::from(subvolume.as_raw_fd()), flags, name)?;
    call(directory, SNAP_CREATE_V2, std::ptr::from_ref(&arguments))
}

/// Creates an empty subvolume under a name in a directory.
///
/// # Errors
/// Any error of the ioctl, `ENAMETOOLONG` for a long name.
pub(crate) fn create(directory: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<()> {
    let mut arguments = NameArguments { fd: 0, name: [0; 4088] };
    set_name(&mut arguments.name, name)?;
    call(directory, SUBVOL_CREATE, std::ptr::from_ref(&arguments))
}

/// Removes a subvolume and all of its files by its name in a directory. One with another subvolume inside is
/// not removed.
///
/// # Errors
/// Any error of the ioctl: `EPERM` for a read-only subvolume of another user, `ENOTEMPTY` for one inside.
pub(crate) fn destroy(directory: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<()> {
    let mut arguments = NameArguments { fd: 0, name: [0; 4088] };
    set_name(&mut arguments.name, name)?;
    call(directory, SNAP_DESTROY, std::ptr::from_ref(&arguments))
}

impl VolumeArguments {
    fn of(fd: i64, flags: u64, name: &OsStr) -> std::io::Result<Self> {
        let mut arguments = Self { fd, transid: 0, flags, unused: [0; 4], name: [0; 4040] };
        set_name(&mut arguments.name, name)?;
        Ok(arguments)
    }
}

/// Writes a name that ends with zero.
fn set_name(place: &mut [u8], name: &OsStr) -> std::io::Result<()> {
    let bytes = name.as_bytes();
    // `BTRFS_SUBVOL_NAME_MAX`.
    let place = place.get_mut(..bytes.len()).filter(|place| place.len() <= 255);
    place.ok_or(rustix::io::Errno::NAMETOOLONG)?.copy_from_slice(bytes);
    Ok(())
}

/// Calls an ioctl with a pointer to its arguments.
fn call<T>(directory: BorrowedFd<'_>, number: libc::c_ulong, arguments: *const T) -> std::io::Result<()> {
    const { assert!(size_of::<VolumeArguments>() == 4096 && size_of::<NameArguments>() == 4096) };
    // SAFETY: the arguments live across the call, have the size in its number, and a name in them ends with
    // zero.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), number as _, arguments) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
