//! Switches of the kernel (`/proc/sys/net`) that machines on links need: forwarding, and what keeps
//! a machine from configuring its host. Called by the supervisor and by `netlink`.

use crate::error::{Context, Result};
use std::path::{Path, PathBuf};

/// Lets the host forward packets, where it does not yet. It stays so: by the time the last machine
/// goes others may count on it, and nobody asks the kernel whether.
///
/// # Errors
/// A switch that cannot be set.
pub fn enable() -> Result<()> {
    let forwards = place("ipv4/ip_forward");
    if !is(&forwards, "1") {
        log::info!("switching on IPv4 forwarding (net.ipv4.ip_forward)");
        set(&forwards, "1")?;
    }
    let forwards = place("ipv6/conf/all/forwarding");
    if forwards.exists() && !is(&forwards, "1") {
        log::info!("switching on IPv6 forwarding (net.ipv6.conf.all.forwarding)");
        keep_advertised_routes();
        set(&forwards, "1")?;
    }
    Ok(())
}

/// The switches that are off though machines need them on, by their names.
pub fn missing() -> Vec<&'static str> {
    let needed = [
        ("ipv4/ip_forward", "net.ipv4.ip_forward"),
        ("ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ];
    let is_off = |file: &str| is(&place(file), "0");
    needed.into_iter().filter(|(file, _)| is_off(file)).map(|(_, name)| name).collect()
}

/// A router ignores router advertisements, unless configured otherwise: interfaces of the host that accept them keep
/// doing so. The setting for future interfaces stays, and links of machines have no such routes.
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

/// Makes an interface ignore router advertisements and redirects, before it is up: a machine is not a router of its
/// host, and has all that its host would advertise.
pub fn distrust(interface: &str) {
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

/// Whether the host has IPv6 switched on for interfaces that are created.
pub fn has_ipv6() -> bool {
    let is_off = |set: &str| is(&place("ipv6/conf").join(set).join("disable_ipv6"), "1");
    place("ipv6/conf").exists() && !is_off("all") && !is_off("default")
}

/// Switches IPv6 off on an interface, as on a port of a bridge: only the bridge has addresses.
pub fn disable_ipv6(interface: &str) {
    let directory = place("ipv6/conf").join(interface);
    if directory.exists()
        && let Err(error) = set(&directory.join("disable_ipv6"), "1")
    {
        log::warn!("{error}, ignoring");
    }
}

/// Whether the kernel has what bridges pass on go through the rules for IPv6 too (`br_netfilter`, as Docker
/// loads it). Then an answer to the host's `::1` gets that address on the bridge, and what comes to it with
/// that is dropped.
pub fn filters_bridges() -> bool {
    is(&place("bridge/bridge-nf-call-ip6tables"), "1")
}

/// Lets packets from the host's loopback addresses go to a machine that has ports forwarded.
///
/// # Errors
/// A switch that cannot be set.
pub fn let_loopback_out(interface: &str) -> Result<()> {
    set(&place("ipv4/conf").join(interface).join("route_localnet"), "1")
}

/// A switch of the network namespace we are in, as netlink knows it: it lies below no other root.
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
