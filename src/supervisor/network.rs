//! The supervisor's part of a machine's network: its interfaces, DHCP, its hosts file, and its share of the
//! firewall tables. Called by `launch`, the event loop and `cleanup`.

pub(crate) mod dhcp;
pub(crate) mod firewall;
pub(crate) mod forwarding;
pub(crate) mod hosts_file;
pub(crate) mod interfaces;
