//! The network of machines: links, addresses, DHCP, host names, the firewall.

pub mod addresses;
pub mod dhcp;
pub mod firewall;
pub mod firewalld;
pub mod hosts_file;
pub mod interfaces;
pub mod listeners;
pub mod networkd;
pub mod reachability;
pub mod resolv_conf;
pub mod resolved;
pub mod sysctl;
pub mod veth;
pub mod zone;
