//! The supervisor's part of a machine's network: its interfaces, DHCP, its hosts file, and its share of the firewall
//! tables. Called by `launch`, the event loop and `cleanup`.

pub mod dhcp;
pub mod firewall;
pub mod hosts_file;
pub mod interfaces;
