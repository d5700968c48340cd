//! Files of Coracle about machines: records, failures, bind mounts, id ranges.

pub mod binds;
pub mod failure;
pub mod id_ranges;
pub mod record;
