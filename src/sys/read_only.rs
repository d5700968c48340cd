//! The read-only flags of images: the immutable flag of a directory (ioctl_iflags(2)), and the property of a
//! Btrfs subvolume (btrfs-ioctl(2)). systemd-machined reads and sets the same ones. Called by `image`.
#![allow(unsafe_code)]

use super::btrfs;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{IFlags, StatxAttributes};

/// `_IOR(BTRFS_IOCTL_MAGIC, 25, __u64)`.
const SUBVOL_GETFLAGS: libc::c_ulong = 0x8008_9419;
/// `_IOW(BTRFS_IOCTL_MAGIC, 26, __u64)`.
const SUBVOL_SETFLAGS: libc::c_ulong = 0x4008_941a;
/// `BTRFS_SUBVOL_RDONLY` of `linux/btrfs.h`.
const SUBVOL_RDONLY: u64 = 1 << 1;

/// Returns whether a directory, also one opened with `O_PATH`, is immutable. `false` if its file system has
/// no such flag.
pub(crate) fn is_immutable(directory: BorrowedFd<'_>) -> bool {
    use rustix::fs::{AtFlags, StatxFlags};
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(directory, c"", flags, StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::IMMUTABLE))
}

/// Returns whether a directory, opened for reading, has a read-only flag.
///
/// # Errors
/// Any error of the ioctl of a subvolume.
pub(crate) fn is_set(directory: BorrowedFd<'_>) -> std::io::Result<bool> {
    if btrfs::is_subvolume(directory) {
        return Ok(subvolume_flags(directory)? & SUBVOL_RDONLY != 0);
    }
    Ok(is_immutable(directory))
}

/// Sets or clears the read-only flag of a directory, opened for reading: in one call, which the kernel does
/// completely or not at all.
///
/// # Errors
/// Any error of the ioctl: `ENOTTY` or `EOPNOTSUPP` for a file system without the flag, `EPERM` without
/// CAP_LINUX_IMMUTABLE.
pub(crate) fn set(directory: BorrowedFd<'_>, read_only: bool) -> std::io::Result<()> {
    if btrfs::is_subvolume(directory) {
        let flags = subvolume_flags(directory)?;
        let flags = if read_only { flags | SUBVOL_RDONLY } else { flags & !SUBVOL_RDONLY };
        let pointer = std::ptr::from_ref(&flags);
        // SAFETY: the kernel reads one u64, as the number of the call says; it lives across the call.
        let result = unsafe { libc::ioctl(directory.as_raw_fd(), SUBVOL_SETFLAGS as _, pointer) };
        return if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
    }
    let mut flags = rustix::fs::ioctl_getflags(directory)?;
    flags.set(IFlags::IMMUTABLE, read_only);
    Ok(rustix::fs::ioctl_setflags(directory, flags)?)
}

fn subvolume_flags(directory: BorrowedFd<'_>) -> std::io::Result<u64> {
    let mut flags = 0_u64;
    let pointer = std::ptr::from_mut(&mut flags);
    // SAFETY: the kernel writes one u64, as the number of the call says; it lives across the call.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), SUBVOL_GETFLAGS as _, pointer) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(flags) }
}

#[cfg(test)]
mod tests {
    use rustix::fd::AsFd;

    #[test]
    fn an_immutable_directory_is_recognised() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let directory = std::fs::File::open(root.path()).unwrap();
        let place = super::super::mount::open_directory(root.path()).unwrap();
        assert!(!super::is_set(directory.as_fd()).unwrap());
        // Without CAP_LINUX_IMMUTABLE, or on a file system without the flag.
        if super::set(directory.as_fd(), true).is_err() {
            return;
        }
        assert!(super::is_set(directory.as_fd()).unwrap() && super::is_immutable(place.as_fd()));
        assert!(std::fs::write(root.path().join("file"), "").is_err());
        super::set(directory.as_fd(), false).unwrap();
        assert!(!super::is_set(directory.as_fd()).unwrap());
        std::fs::write(root.path().join("file"), "").unwrap();
    }
}
