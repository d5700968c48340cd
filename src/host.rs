//! The outside worlds, one file each, speaking our words.

pub mod bindings;
mod bus;
pub mod cgroup;
mod emulator;
pub mod entries;
pub mod flight;
pub mod forwarding;
pub mod hosts;
pub mod idmap;
pub mod ids;
pub mod journal;
pub mod knock;
pub mod label;
pub mod lease;
pub mod lock;
pub mod machined;
pub mod netlink;
pub mod networkd;
pub mod nftables;
pub mod ports;
pub mod probe;
pub mod resolved;
pub mod resolver;
pub mod state;
pub mod systemd1;
pub mod varlink;
pub mod zone;
