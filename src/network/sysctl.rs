//! Sysctls in `/proc/sys/net` required by machines with links: forwarding, and settings that keep a machine
//! from configuring its host. Called by the supervisor and by `veth` and `interfaces`.

use crate::error::{Context, Result};
use std::path::{Path, PathBuf};

/// Enables forwarding on the host, if it is disabled. It stays enabled: when the last machine stops other
/// programs may depend on it, and the kernel keeps no record of them.
///
/// # Errors
/// A sysctl cannot be set.
pub(crate) fn enable() -> Result<()> {
    let forwards = place("ipv4/ip_forward");
    if !is(&forwards, "1") {
        log::info!("enabling IPv4 forwarding (net.ipv4.ip_forward)");
        set(&forwards, "1")?;
    }
    let forwards = place("ipv6/conf/all/forwarding");
    if forwards.exists() && !is(&forwards, "1") {
        log::info!("enabling IPv6 forwarding (net.ipv6.conf.all.forwarding)");
        keep_advertised_routes();
        set(&forwards, "1")?;
    }
    Ok(())
}

/// Returns the names of the disabled sysctls that machines need.
pub(crate) fn missing() -> Vec<&'static str> {
    let needed = [
        ("ipv4/ip_forward", "net.ipv4.ip_forward"),
        ("ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ];
    let is_off = |file: &str| is(&place(file), "0");
    needed.into_iter().filter(|(file, _)| is_off(file)).map(|(_, name)| name).collect()
}

/// Keeps router advertisements accepted on interfaces of the host that accept them: a router ignores them
/// unless configured otherwise. The setting for future interfaces stays, and links of machines have no such
/// routes.
fn keep_advertised_routes() {
    let Ok(interfaces) = std::fs::read_dir(place("ipv6/conf")) else { return };
    for interface in interfaces.flatten() {
        let name = interface.file_name();
        let name = name.to_string_lossy();
        let is_link = ["ve-", "vz-", "vb-"].iter().any(|prefix| name.starts_with(prefix));
        let accepts = interface.path().join("accept_ra");
        if !matches!(&*name, "all" | "default" | "lo")
            && !is_link
            && is(&accepts, "1")
            && let Err(error) = set(&accepts, "2")
        {
            log::warn!("{error}, ignoring");
        }
    }
}

/// Makes an interface ignore router advertisements and redirects, before it is up: a machine is not a router
/// of its host.
pub(crate) fn disable_accept_ra(interface: &str) {
    let directory = place("ipv6/conf").join(interface);
    for switch in ["accept_ra", "accept_redirects"] {
        let file = directory.join(switch);
        // A kernel without IPv6 has no such file.
        if file.exists()
            && let Err(error) = set(&file, "0")
        {
            log::warn!("{error}, ignoring");
        }
    }
}

/// Returns whether IPv6 is enabled on the host for new interfaces.
pub(crate) fn has_ipv6() -> bool {
    let is_off = |set: &str| is(&place("ipv6/conf").join(set).join("disable_ipv6"), "1");
    place("ipv6/conf").exists() && !is_off("all") && !is_off("default")
}

/// Disables IPv6 on an interface, for example on a port of a bridge: only the bridge has addresses.
pub(crate) fn disable_ipv6_on_port(interface: &str) {
    let directory = place("ipv6/conf").join(interface);
    if directory.exists()
        && let Err(error) = set(&directory.join("disable_ipv6"), "1")
    {
        log::warn!("{error}, ignoring");
    }
}

/// Returns whether bridged IPv6 packets pass the rules for routed packets (`br_netfilter`, loaded by Docker).
/// A reply to the host's `::1` then has this destination on the bridge already, and the kernel drops it.
pub(crate) fn filters_bridges() -> bool {
    is(&place("bridge/bridge-nf-call-ip6tables"), "1")
}

/// Enables routing of packets from the host's loopback addresses to a machine with published ports.
///
/// # Errors
/// The sysctl cannot be set.
pub(crate) fn enable_route_localnet(interface: &str) -> Result<()> {
    set(&place("ipv4/conf").join(interface).join("route_localnet"), "1")
}

/// Returns the path of a sysctl of the current network namespace. Like netlink, it is independent of
/// [`crate::paths::Paths`].
fn place(name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(name)
}

fn is(file: &Path, value: &str) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.trim() == value)
}

fn set(file: &Path, value: &str) -> Result<()> {
    std::fs::write(file, value)
        .context(|| format!("cannot set '{}' to {value}", file.display()))
        .map_err(|error| error.with_hint("set it on the host with sysctl(8)"))
}
