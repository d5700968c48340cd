//! The interfaces of systemd: units, machined and the journal.

pub mod bus;
pub mod journal;
pub mod machined;
pub mod units;
pub mod varlink;
