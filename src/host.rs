//! The outside worlds, one file each, speaking our words.

mod bus;
pub mod journal;
pub mod machined;
pub mod netlink;
pub mod networkd;
pub mod state;
pub mod systemd1;
