//! The outside worlds, one file each, speaking our words.

mod bus;
pub mod cgroup;
mod emulator;
pub mod entries;
pub mod flight;
pub mod ids;
pub mod journal;
pub mod lock;
pub mod machined;
pub mod netlink;
pub mod networkd;
pub mod probe;
pub mod state;
pub mod systemd1;
