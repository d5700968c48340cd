//! Messages of a running guest: its console, its log and its notifications. Called by the event loop. All
//! input is untrusted and bounded.

pub(crate) mod console;
pub mod descriptor_store;
pub(crate) mod inbox;
pub mod notify_in;
mod rate_limit;
mod repeats;
pub mod syslog;
