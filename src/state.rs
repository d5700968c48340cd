//! Files of Coracle about machines: records, failures, bind mounts, id ranges.

pub(crate) mod address_conflicts;
pub(crate) mod binds;
pub(crate) mod build;
pub(crate) mod changes;
pub(crate) mod devices;
pub mod expected;
pub(crate) mod failure;
pub(crate) mod health;
pub(crate) mod id_ranges;
pub(crate) mod idle;
pub(crate) mod kept_sessions;
pub(crate) mod record;
