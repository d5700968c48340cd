//! The network of machines: links, addresses, DHCP, host names, the firewall.

pub mod addresses;
mod altnames;
pub mod dhcp;
pub mod firewall;
pub(crate) mod firewalld;
pub(crate) mod guest_addresses;
pub mod hosts_file;
pub(crate) mod interfaces;
pub(crate) mod listeners;
pub(crate) mod networkd;
pub(crate) mod reachability;
pub(crate) mod resolv_conf;
pub(crate) mod resolved;
pub(crate) mod sysctl;
pub(crate) mod veth;
pub(crate) mod zone;
