//! The outside worlds, one file each, speaking our words.

pub mod netlink;
pub mod state;
