//! Services and files of the host: systemd, cgroups, locks, the programs and limits of processes.

pub(crate) mod binfmt;
pub mod cgroup;
pub(crate) mod cgroup_move;
pub(crate) mod empty_mounts;
pub(crate) mod executable;
pub mod idmap;
pub(crate) mod lock;
pub(crate) mod lsm;
pub mod probe;
pub(crate) mod procfs;
pub(crate) mod rlimits;
pub(crate) mod runtime;
pub(crate) mod systemd;
