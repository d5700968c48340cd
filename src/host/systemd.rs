//! The interfaces of systemd: units, machined and the journal.

pub(crate) mod bus;
pub(crate) mod guest_manager;
pub(crate) mod importd;
pub(crate) mod journal;
pub(crate) mod machined;
pub(crate) mod session;
pub(crate) mod units;
pub(crate) mod varlink;
