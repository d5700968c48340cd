//! Shortens the wait of systemd before it executes a command of a unit. Called by `start`, and by `cleanup`
//! for the command of `ExecStopPost=`.
//!
//! The kernel moves a process between cgroups, or to its own cgroup again, only after a grace period of RCU,
//! some 10 ms, unless an earlier move ended within the last one (`cgroup_threadgroup_rwsem`, rcu_sync).
//! systemd moves each command of a unit. A child moves itself first, while this process does or waits for
//! something else.

use super::cgroup;
use crate::sys::process::{self, Side};
use nix::sched::CloneFlags;
use rustix::fd::{AsFd, OwnedFd};
use std::fs::OpenOptions;

/// A child that moves itself to the cgroup of this process.
#[derive(Debug)]
pub(crate) struct CgroupMove {
    processes: OwnedFd,
    child: OwnedFd,
}

impl CgroupMove {
    /// Starts the child. `None` if that fails: then systemd waits.
    pub(crate) fn begin() -> Option<Self> {
        let file = cgroup::current()?.join("cgroup.procs");
        let processes = OwnedFd::from(OpenOptions::new().write(true).open(file).ok()?);
        // With shared descriptors: copies would make the child the last owner of a socket or a lock.
        match process::clone(CloneFlags::CLONE_FILES.bits().cast_unsigned().into(), None).ok()? {
            Side::Child => {
                let _ = move_here(&processes);
                process::exit_now(0)
            }
            Side::Parent(child) => Some(Self { processes, child: child.pidfd }),
        }
    }

    /// Waits for the child, and moves this process, which takes no time now: systemd follows within a grace
    /// period.
    pub(crate) fn end(self) {
        if process::wait(self.child.as_fd()).is_ok() {
            let _ = move_here(&self.processes);
        }
    }
}

/// Moves the calling process to the cgroup of this file, in which it is already.
fn move_here(processes: &OwnedFd) -> rustix::io::Result<usize> {
    rustix::io::write(processes, b"0")
}
