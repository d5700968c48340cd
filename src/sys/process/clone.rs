//! Clones a child into namespaces and a cgroup.

use super::credentials::become_effective;
use super::set_dumpable;
use crate::error::{Context, Error, Result};
use nix::unistd::{Gid, setfsgid};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::process::Pid;

/// clone3(2) flag: start the child in the given cgroup. libc's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// clone3(2) flag: reset all signal dispositions of the child.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// Arguments of clone3(2), `struct clone_args` of `linux/sched.h`.
#[repr(C)]
#[derive(Default)]
pub(super) struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The side of a clone.
#[derive(Debug)]
pub enum Side {
    /// The parent, with the child's process id and pidfd.
    Parent(Child),
    /// The child.
    Child,
}

/// A child process, held by its pidfd so that a reused id does not matter.
#[derive(Debug)]
pub struct Child {
    /// Its id in the pid namespace of the parent.
    pub(crate) pid: Pid,
    /// Its pidfd, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Clones this process as the owner of the child's new user namespace (user_namespaces(7)). The kernel
/// charges some per-user resources of the child's processes, for example inotify(7) instances, queued
/// signals, POSIX message queues and locked memory, to the owner as well: an owner per machine keeps a
/// machine from exhausting the resources of root. The capabilities of this process stay effective.
///
/// The file system of POSIX message queues is created with the namespace, with the user and group that this
/// process creates files as (mq_overview(7)).
///
/// # Errors
/// Those of [`clone`], and of seteuid(2) and capset(2).
pub fn clone_owned_by(owner: u32, namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side> {
    if owner == 0 {
        return clone(namespaces, cgroup);
    }
    let before = rustix::process::geteuid().as_raw();
    become_effective(owner)?;
    let group = setfsgid(Gid::from_raw(owner));
    let side = clone(namespaces, cgroup);
    if !matches!(side, Ok(Side::Child)) {
        setfsgid(group);
        become_effective(before)?;
        set_dumpable(true);
    }
    side
}

/// Clones this process into new namespaces (`CLONE_NEW*` bits, or `CLONE_FILES`) and, if given, a cgroup.
///
/// # Errors
/// Refused in a process of several threads: only the caller's thread would exist in the child, and locks of
/// other threads would never be released. Else any error of clone3(2).
pub fn clone(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side> {
    clone_unchecked(arguments(namespaces, cgroup)?)
}

/// Clones this process into the pid namespace of its children, as process `pid` there (Linux 5.5). Later ids
/// are not affected.
///
/// # Errors
/// As for [`clone`].
pub fn clone_as(pid: u32) -> Result<Side> {
    clone_unchecked(arguments(0, None)?.with_pid(&pid))
}

/// Clones this process, itself a cloned child of one thread, as a child of its own parent.
///
/// # Errors
/// Any error of clone3(2).
pub fn clone_sibling() -> Result<Side> {
    // The exit signal is that of this process.
    clone_unchecked(CloneArgs { flags: libc::CLONE_PARENT as u64, ..CloneArgs::default() })
}

/// Returns the arguments for a child of this process, of one thread, in new namespaces and, if given, a
/// cgroup.
///
/// # Errors
/// Refused in a process of several threads.
pub(super) fn arguments(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<CloneArgs> {
    // Without effect in a process of one thread, else an error (unshare(2)).
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_THREAD)
        .context(|| "refusing to clone a process of several threads")?;
    let mut arguments =
        CloneArgs { flags: namespaces, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    Ok(arguments)
}

impl CloneArgs {
    /// Returns the arguments with further flags.
    pub(super) fn with_flags(self, flags: u64) -> Self {
        Self { flags: self.flags | flags, ..self }
    }

    /// Returns the arguments for this process id in the innermost pid namespace. The caller keeps the number
    /// until the call.
    pub(super) fn with_pid(self, pid: &u32) -> Self {
        Self { set_tid: std::ptr::from_ref(pid) as u64, set_tid_size: 1, ..self }
    }

    /// Returns the arguments with a stack, by its lowest address.
    pub(super) fn with_stack(self, stack: u64, stack_size: u64) -> Self {
        Self { stack, stack_size, ..self }
    }
}

fn clone_unchecked(arguments: CloneArgs) -> Result<Side> {
    Ok(with_pidfd(arguments, call_copying)?.map_or(Side::Child, Side::Parent))
}

/// Calls clone3(2) for a child with a copy of the memory. Returns its id, zero in the child, or a negative
/// error.
pub(super) fn call_copying(arguments: &CloneArgs) -> i64 {
    let shared = u64::from((libc::CLONE_VM | libc::CLONE_VFORK).cast_unsigned());
    let flags = arguments.flags & !shared;
    let arguments = CloneArgs { flags, stack: 0, stack_size: 0, ..*arguments };
    // SAFETY: the arguments live across the call and have the size passed. No stack is given, so the child
    // continues with a copy of the caller's, as after fork(2); the callers ensure that there is one thread.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::addr_of!(arguments), std::mem::size_of::<CloneArgs>())
    };
    let error = || i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
    if pid == -1 { -error() } else { pid }
}

/// Calls clone3(2) by `call`, which returns the id of the child, zero in the child, or a negative error.
/// Returns the child, `None` in the child.
pub(super) fn with_pidfd(
    arguments: CloneArgs,
    call: impl FnOnce(&CloneArgs) -> i64,
) -> Result<Option<Child>> {
    let mut pidfd: i32 = -1;
    let arguments = CloneArgs {
        flags: arguments.flags | CLONE_CLEAR_SIGHAND | libc::CLONE_PIDFD as u64,
        pidfd: std::ptr::addr_of_mut!(pidfd) as u64,
        ..arguments
    };
    match call(&arguments) {
        0 => Ok(None),
        error @ ..0 => {
            let error = i32::try_from(-error).unwrap_or(libc::EIO);
            Err(std::io::Error::from_raw_os_error(error)).context(|| "cannot clone")
        }
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // SAFETY: because of CLONE_PIDFD the kernel has stored a new descriptor, without another owner.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            pid.map(|pid| Some(Child { pid, pidfd }))
                .ok_or_else(|| Error::new("clone returned a process id out of range"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_to_clone_with_threads() {
        // The test runner has several threads.
        let error = clone(0, None).unwrap_err();
        assert!(error.to_string().contains("threads"), "{error}");
    }
}
