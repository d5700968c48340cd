//! Services and files of the host: systemd, cgroups, locks, the programs and limits of processes.

pub(crate) mod binfmt;
pub mod cgroup;
pub(crate) mod cgroup_leaf;
pub(crate) mod cgroup_move;
pub(crate) mod credentials;
pub(crate) mod empty_mounts;
pub(crate) mod executable;
pub mod idmap;
pub(crate) mod inotify;
pub(crate) mod lock;
pub(crate) mod lsm;
pub(crate) mod lxcfs;
pub(crate) mod manager;
pub(crate) mod polkit;
pub mod probe;
pub(crate) mod procfs;
pub(crate) mod rlimits;
pub(crate) mod runtime;
pub(crate) mod systemd;
pub(crate) mod usb;

use crate::error::{Error, Result};

/// Refuses a process that is not root.
///
/// # Errors
/// Another user.
pub(crate) fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new("must be run as root").with_hint("run it with sudo(8)"))
}
