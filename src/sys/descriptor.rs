//! Descriptors across an exec: which are kept, which are closed, and how a number becomes a descriptor again.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::FdFlags;

/// Marks all descriptors from `first` on close-on-exec (close_range(2), CLOSE_RANGE_CLOEXEC).
///
/// # Errors
/// Any error of close_range(2).
pub(crate) fn close_on_exec_from(first: RawFd) -> std::io::Result<()> {
    let first = libc::c_uint::try_from(first).unwrap_or(3);
    // SAFETY: only flags of descriptors change; no descriptor of a live owner is closed.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps this number of descriptors from 3 on open across the next exec: those that the service manager has
/// passed (sd_listen_fds(3)).
///
/// # Errors
/// One of them is not open.
pub(crate) fn pass_on(count: u32) -> std::io::Result<()> {
    for number in (3..).take(count as usize) {
        // SAFETY: only flags of the number change, which is allowed for any number.
        if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } == -1 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Closes all descriptors from `first` on except for one: for a cloned child that never returns and has no
/// owners of them.
pub(crate) fn close_from(first: RawFd, kept: BorrowedFd<'_>) {
    let close = |from: RawFd, to: libc::c_uint| {
        let from = libc::c_uint::try_from(from).unwrap_or(3);
        if from <= to {
            // SAFETY: the caller has no owner of these descriptors that is used or dropped later.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    };
    let kept = kept.as_raw_fd();
    close(first, libc::c_uint::try_from(kept - 1).unwrap_or(0));
    close(kept + 1, libc::c_uint::MAX);
}

/// Closes all descriptors but these, in ascending order: for a cloned child that never returns and has no owners
/// of the other ones.
pub(crate) fn close_all_but(kept: &[RawFd]) {
    let mut from = 0;
    for last in kept.iter().copied().chain([RawFd::MAX]) {
        if from < last {
            let (first, last) = (from as libc::c_uint, (last - 1) as libc::c_uint);
            // SAFETY: the caller has no owner of these descriptors that is used or dropped later.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
        from = last.saturating_add(1);
    }
}

/// Closes this process's copy of a descriptor of its parent: for a cloned child, which may borrow the memory
/// of the parent and never uses the value again.
pub(crate) fn close_copy(fd: BorrowedFd<'_>) {
    // SAFETY: the caller does not use the descriptor in this process any more, and never drops its owner.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// The number from which on [`leave`] closes descriptors.
const CLOSED_FROM: RawFd = 256;

/// Leaves a descriptor that is closed on exec to the exec or the end of this process, which closes all of
/// them by one call: for a child that does one of them soon. A descriptor with a high number is closed, so
/// that the limit of the child is not reached.
pub(crate) fn leave(fd: OwnedFd) {
    if fd.as_raw_fd() < CLOSED_FROM {
        std::mem::forget(fd);
    }
}

/// Keeps a descriptor open across the next exec and returns its number.
///
/// # Errors
/// Any error of fcntl(2).
pub(crate) fn keep(fd: BorrowedFd<'_>) -> std::io::Result<RawFd> {
    rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
    Ok(fd.as_raw_fd())
}

/// Gives a descriptor a number, and keeps it open across the next exec. Another descriptor of this number is
/// closed.
///
/// # Errors
/// Any error of dup2(2).
pub(crate) fn place(fd: BorrowedFd<'_>, number: RawFd) -> std::io::Result<()> {
    let result = if fd.as_raw_fd() == number {
        // SAFETY: changes a flag of an open descriptor.
        unsafe { libc::fcntl(number, libc::F_SETFD, 0) }
    } else {
        // SAFETY: the caller does not use another descriptor of this number.
        unsafe { libc::dup2(fd.as_raw_fd(), number) }
    };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Adopts a descriptor passed to this program by number across an exec, and marks it close-on-exec again.
///
/// # Errors
/// The number is not an open descriptor.
pub(crate) fn adopt(number: RawFd) -> Result<OwnedFd> {
    let missing = || Error::new(format!("descriptor {number} was not handed over"));
    if number < 3 {
        return Err(missing());
    }
    // SAFETY: only sets the flags of a number, which is allowed for any number.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(missing());
    }
    // SAFETY: the number is open, checked above; the caller read it from the state of the program that
    // executed this one, which gave up the descriptor by that exec.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// `SO_PASSRIGHTS` of linux/socket.h, Linux 6.16.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Makes the kernel refuse messages with descriptors for an AF_UNIX socket: sendmsg(2) of the sender fails
/// with `EPERM`.
///
/// # Errors
/// Any error of setsockopt(2); `ENOPROTOOPT` before Linux 6.16.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> std::io::Result<()> {
    let (off, size) = (0i32, std::mem::size_of::<i32>() as libc::socklen_t);
    // SAFETY: the value lives across the call and has the size passed.
    let result = unsafe {
        let value = std::ptr::from_ref(&off).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, value, size)
    };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns whether messages with descriptors may arrive at an AF_UNIX socket.
pub(crate) fn accepts_descriptors(socket: BorrowedFd<'_>) -> bool {
    let (mut value, mut size) = (1i32, std::mem::size_of::<i32>() as libc::socklen_t);
    // SAFETY: the value and its size live across the call; the kernel writes no more than that size.
    let result = unsafe {
        let place = std::ptr::from_mut(&mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, place, &raw mut size)
    };
    result == -1 || value != 0
}
