//! The differences between a command of a build session and one of a machine. Passed to `exec` by `build`.

use rustix::fd::BorrowedFd;
use std::time::Duration;

/// The differences of a command of a build session from one of the machine itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Apart<'a> {
    /// Its cgroup. `None` for that of PID 1.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// Whether it has a network namespace of its own, with a loopback interface only.
    pub(crate) is_offline: bool,
    /// Whether this process transfers all streams: a process that outlives the command does not keep those of
    /// the caller.
    pub(crate) relays_streams: bool,
    /// Whether signals go to its process group.
    pub(crate) signals_group: bool,
    /// The time after which it is terminated.
    pub(crate) time_limit: Option<Duration>,
}
