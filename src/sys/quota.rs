//! Project quotas (quotactl(2), `PRJQUOTA`) and the project of a file (ioctl_fsgetxattr(2)): limits of the space of
//! the files of a project. Called by `image`. Only processes of the host's user namespace can change the project of a
//! file.
#![allow(unsafe_code)]

use rustix::fd::{AsRawFd, BorrowedFd};

/// `_IOR('X', 31, struct fsxattr)` and `_IOW('X', 32, struct fsxattr)`.
const FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FSSETXATTR: libc::c_ulong = 0x401c_5820;
/// `FS_XFLAG_PROJINHERIT` of `linux/fs.h`: new files have the project of their directory.
const INHERITS: u32 = 0x200;
/// `PRJQUOTA`, and the commands of `linux/quota.h` and `linux/dqblk_xfs.h`.
const PROJECT: u32 = 2;
const GETQUOTA: u32 = 0x0080_0007;
const SETQUOTA: u32 = 0x0080_0008;
const XGETQSTAT: u32 = 0x5805;
/// `QIF_BLIMITS`: the limits of the space are set.
const SPACE_LIMITS: u32 = 1;
/// `FS_QUOTA_PDQ_ENFD`: the limits of projects are enforced.
const ENFORCED: u16 = 1 << 5;
/// The unit of limits, bytes.
const BLOCK: u64 = 1024;

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk` of `linux/quota.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Quota {
    space_limit: u64,
    space_soft_limit: u64,
    space: u64,
    files_limit: u64,
    files_soft_limit: u64,
    files: u64,
    space_time: u64,
    files_time: u64,
    valid: u32,
}

/// The first fields of `struct fs_quota_stat` of `linux/dqblk_xfs.h`, and room for all of it.
#[repr(C, align(8))]
struct State {
    version: i8,
    flags: u16,
    rest: [u8; 252],
}

/// The space of the files of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProjectUsage {
    /// The bytes that they take.
    pub(crate) bytes: u64,
    /// The number of files.
    pub(crate) files: u64,
    /// The limit in bytes. `None` without a limit.
    pub(crate) limit: Option<u64>,
}

/// Returns the project of an open file or directory; zero for none.
///
/// # Errors
/// Any error of the ioctl: `ENOTTY` or `EOPNOTSUPP` for a file system without projects.
pub(crate) fn project(file: BorrowedFd<'_>) -> std::io::Result<u32> {
    attributes(file).map(|attributes| attributes.project)
}

/// Sets the project of an open file or directory. New files in the directory have it, too.
///
/// # Errors
/// Any error of the ioctl.
pub(crate) fn set_project(file: BorrowedFd<'_>, project: u32, is_directory: bool) -> std::io::Result<()> {
    let mut attributes = attributes(file)?;
    attributes.project = project;
    if is_directory {
        attributes.flags |= INHERITS;
    }
    let pointer = std::ptr::from_ref(&attributes);
    // SAFETY: the kernel reads one structure of the size in the number of the call; it lives across the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FSSETXATTR as _, pointer) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn attributes(file: BorrowedFd<'_>) -> std::io::Result<Attributes> {
    let mut attributes = Attributes::default();
    let pointer = std::ptr::from_mut(&mut attributes);
    // SAFETY: the kernel writes one structure of the size in the number of the call; it lives across the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FSGETXATTR as _, pointer) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(attributes) }
}

/// Returns whether the file system of an open file enforces limits of projects.
pub(crate) fn are_enforced(file: BorrowedFd<'_>) -> bool {
    let mut state = State { version: 0, flags: 0, rest: [0; 252] };
    // SAFETY: the kernel writes a `struct fs_quota_stat`, which is smaller.
    let asked = unsafe { call(file, XGETQSTAT, 0, std::ptr::from_mut(&mut state).cast()) };
    asked.is_ok() && state.flags & ENFORCED != 0
}

/// Returns the space of a project on the file system of an open file.
///
/// # Errors
/// Any error of quotactl_fd(2): `ESRCH` without quotas of projects.
pub(crate) fn usage(file: BorrowedFd<'_>, project: u32) -> std::io::Result<ProjectUsage> {
    let mut quota = Quota::default();
    // SAFETY: the kernel writes a `struct if_dqblk`.
    unsafe { call(file, GETQUOTA, project, std::ptr::from_mut(&mut quota).cast()) }?;
    let limit = Some(quota.space_limit).filter(|limit| *limit > 0);
    let limit = limit.map(|limit| limit.saturating_mul(BLOCK));
    Ok(ProjectUsage { bytes: quota.space, files: quota.files, limit })
}

/// Sets the limit of a project in bytes, `None` for no limit.
///
/// # Errors
/// Any error of quotactl_fd(2): `ESRCH` without quotas of projects.
pub(crate) fn set_limit(file: BorrowedFd<'_>, project: u32, limit: Option<u64>) -> std::io::Result<()> {
    let space_limit = limit.map_or(0, |limit| limit.div_ceil(BLOCK).max(1));
    let mut quota = Quota { space_limit, valid: SPACE_LIMITS, ..Quota::default() };
    // SAFETY: the kernel reads a `struct if_dqblk`.
    unsafe { call(file, SETQUOTA, project, std::ptr::from_mut(&mut quota).cast()) }
}

/// Calls quotactl_fd(2).
///
/// # Safety
/// `data` leads to the structure of the command.
unsafe fn call(file: BorrowedFd<'_>, command: u32, id: u32, data: *mut libc::c_void) -> std::io::Result<()> {
    let command = (command << 8) | PROJECT;
    // SAFETY: the caller passes the structure of the command, which lives across the call.
    let result = unsafe { libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, id, data) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernel() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<Quota>(), 72);
        assert_eq!(std::mem::offset_of!(State, flags), 2);
    }
}
