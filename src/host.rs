//! Services and files of the host: systemd, cgroups, locks, the programs and limits of processes.

pub mod binfmt;
pub mod cgroup;
pub mod executable;
pub mod idmap;
pub mod lock;
pub mod lsm;
pub mod probe;
pub mod procfs;
pub mod rlimits;
pub mod runtime;
pub mod systemd;
