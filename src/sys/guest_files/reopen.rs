//! Reopening the descriptors of files under the control of a guest (`O_PATH`), by `/proc/self/fd`. Called by
//! `guest_files` and, through it, by the modules that open files of a guest. A name is never resolved again.

use crate::error::Result;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, Timestamps};
use rustix::io::Errno;
use std::path::Path;
use std::sync::OnceLock;

/// `/proc/self/fd` of the host's procfs, for a process that has entered a machine: the procfs there belongs
/// to the guest.
static DESCRIPTORS: OnceLock<OwnedFd> = OnceLock::new();

/// Lets this process reopen its descriptors after entering a machine. Called by that process before it
/// enters.
///
/// # Errors
/// Any error of openat(2).
pub(crate) fn keep_descriptors() -> Result<()> {
    let descriptors = crate::sys::mount::open_directory(Path::new("/proc/self/fd"))?;
    let _ = DESCRIPTORS.set(descriptors);
    Ok(())
}

/// Returns a directory, and the name in it that refers to one of this process's descriptors.
fn again(place: &OwnedFd) -> (BorrowedFd<'static>, String) {
    let number = place.as_raw_fd();
    match DESCRIPTORS.get() {
        Some(descriptors) => (descriptors.as_fd(), number.to_string()),
        None => (CWD, format!("/proc/self/fd/{number}")),
    }
}

/// Opens the file behind a descriptor (`O_PATH`), independent of its current name. Only a regular file is
/// opened: opening a device or a pipe has effects.
///
/// # Errors
/// `EINVAL` for another kind of file, `EAGAIN` for a file under a lease, else any error of open(2).
pub(crate) fn reopen_file(place: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    reopen_regular(place, &rustix::fs::fstat(place)?, flags)
}

/// Like [`reopen_file`], by the directory of this process in the host's procfs, if that is given.
///
/// # Errors
/// The same.
pub(crate) fn reopen_file_by(
    process: Option<BorrowedFd<'_>>,
    place: &OwnedFd,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let Some(process) = process else { return reopen_file(place, flags) };
    refuse_irregular(&rustix::fs::fstat(place)?)?;
    open_by(process, format!("fd/{}", place.as_raw_fd()), flags)
}

/// Like [`reopen_file`], with the known attributes of the file.
///
/// # Errors
/// The same.
pub(super) fn reopen_regular(place: &OwnedFd, stat: &Stat, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    refuse_irregular(stat)?;
    reopen(place, flags)
}

fn refuse_irregular(stat: &Stat) -> rustix::io::Result<()> {
    let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if is_regular { Ok(()) } else { Err(Errno::INVAL) }
}

/// Opens the named pipe behind a descriptor (`O_PATH`) for writing.
///
/// # Errors
/// `EINVAL` for another kind of file, `ENXIO` if no process reads it, else any error of open(2).
pub(crate) fn reopen_pipe(place: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    if FileType::from_raw_mode(rustix::fs::fstat(place)?.st_mode) != FileType::Fifo {
        return Err(Errno::INVAL);
    }
    reopen(place, OFlags::WRONLY)
}

fn reopen(place: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let (directory, name) = again(place);
    open_by(directory, name, flags)
}

fn open_by(directory: BorrowedFd<'_>, name: String, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// Sets the mode of the file behind a descriptor (`O_PATH`).
///
/// # Errors
/// Any error of chmod(2).
pub(crate) fn set_mode(place: &OwnedFd, mode: Mode) -> rustix::io::Result<()> {
    let (directory, name) = again(place);
    rustix::fs::chmodat(directory, name, mode, AtFlags::empty())
}

/// Sets the times of the file behind a descriptor (`O_PATH`).
///
/// # Errors
/// Any error of utimensat(2).
pub(crate) fn set_times(place: &OwnedFd, times: &Timestamps) -> rustix::io::Result<()> {
    let (directory, name) = again(place);
    rustix::fs::utimensat(directory, name, times, AtFlags::empty())
}
