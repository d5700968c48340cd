//! Rules across the parts of a machine, each with the reason.

use super::Parts;
use super::command::Payload;
use super::egress::Destination;
use super::mounts::{MountKind, TMPFS_ATTRIBUTES, TMPFS_OPTIONS};
use super::network::{FurtherKind, INTERFACE_NAME_MAX, MOST_PORTS, Mode, Network, Port, Protocol};
use super::security::Procfs;
use super::users::{Ownership, Users};
use crate::error::Error;

/// Every rule that `parts` break.
pub fn broken(parts: &Parts) -> Vec<Error> {
    let mut errors = Vec::new();
    if parts.root.directory == std::path::Path::new("/") {
        errors.push(
            Error::new("the root directory is '/', the host's own")
                .with_hint("name a directory with a root file system of its own"),
        );
    }
    if let Users::Fixed { base, count } = parts.users
        && (base.checked_add(count).is_none() || count == 0)
    {
        errors.push(Error::new(format!("user id range {base}:{count} does not fit 32 bits")));
    }
    if parts.ownership == Ownership::Map && parts.users == Users::Host {
        errors.push(
            Error::new("ownership 'map' needs a user namespace").with_hint("set users.private = \"pick\""),
        );
    }
    if parts.security.nesting && matches!(parts.users, Users::Identity) {
        // In its procfs and sysfs without masks root inside would write as the host's root.
        errors
            .push(Error::new("nesting needs user ids of its own").with_hint("set users.private = \"pick\""));
    }
    let has_own_ids = matches!(parts.users, Users::Pick | Users::Fixed { .. });
    if parts.security.procfs == Procfs::Full && !has_own_ids {
        errors.push(
            Error::new("security.procfs = \"full\" needs user ids of its own")
                .with_hint("set users.private = \"pick\""),
        );
    }
    if parts.security.procfs == Procfs::Masked && parts.security.nesting {
        errors.push(
            Error::new("nesting needs security.procfs = \"full\"")
                .with_hint("set security.procfs = \"auto\""),
        );
    }
    if let Payload::Boot { .. } = parts.command.payload
        && parts.command.user.as_deref().is_some_and(|user| user != "root" && user != "0")
    {
        errors.push(Error::new("an init system runs as root, not as another user"));
    }
    errors.extend(connection(&parts.network));
    errors.extend(ports(&parts.network));
    errors.extend(bounds(&parts.network));
    for mount in &parts.mounts {
        if let MountKind::Tmpfs { options } = &mount.kind {
            errors.extend(unknown_options(options));
        }
        if !mount.target.is_absolute() {
            errors.push(Error::new(format!("mount target '{}' is not absolute", mount.target.display())));
        }
    }
    errors
}

/// What is wrong with the mode and what it needs.
fn connection(network: &Network) -> Vec<Error> {
    let mode = network.mode;
    let has = |kind| network.further.iter().any(|further| further.kind == kind);
    let of_one_mode = [
        (Mode::Zone, network.zone.is_some(), "zone"),
        (Mode::Bridge, network.bridge.is_some(), "bridge"),
        (Mode::Namespace, network.namespace.is_some(), "namespace-path"),
    ];
    let first_of_mode = [
        (Mode::Macvlan, has(FurtherKind::Macvlan), "macvlan"),
        (Mode::Ipvlan, has(FurtherKind::Ipvlan), "ipvlan"),
        (Mode::Interface, has(FurtherKind::Moved), "interface"),
    ];
    let mut errors = Vec::new();
    for (needs, given, key) in of_one_mode.iter().chain(&first_of_mode) {
        if mode == *needs && !given {
            errors.push(Error::new(format!("network mode '{}' needs 'network.{key}'", mode.as_str())));
        }
    }
    for (belongs, given, key) in of_one_mode {
        if given && mode != belongs {
            errors.push(
                Error::new(format!("'network.{key}' means nothing in network mode '{}'", mode.as_str()))
                    .with_hint(format!("set network.mode = \"{}\", or take it out", belongs.as_str())),
            );
        }
    }
    if !network.further.is_empty() && !mode.makes_namespace() {
        errors.push(
            Error::new(format!("further interfaces have no place in network mode '{}'", mode.as_str()))
                .with_hint("set network.mode to \"veth\", \"zone\", \"bridge\" or \"none\""),
        );
    }
    let mut inside: Vec<&str> = Vec::new();
    for further in &network.further {
        let name = further.names.inside.as_ref().unwrap_or(&further.names.host).as_str();
        let is_prefixed = further.names.inside.is_none()
            && matches!(further.kind, FurtherKind::Macvlan | FurtherKind::Ipvlan);
        if is_prefixed && name.len() > INTERFACE_NAME_MAX - 3 {
            errors.push(
                Error::new(format!("with 'mv-' or 'iv-' in front '{name}' is too long for an interface"))
                    .with_hint(format!("say what it is called inside, as \"{name}:lan0\"")),
            );
        }
        if matches!(name, "lo" | "host0") || (!is_prefixed && inside.contains(&name)) {
            errors.push(Error::new(format!("two interfaces of the machine are called '{name}'")));
        }
        inside.push(name);
    }
    errors
}

/// What is wrong with the ports.
fn ports(network: &Network) -> Vec<Error> {
    let ports = &network.ports;
    let mut errors = Vec::new();
    if !ports.is_empty() && !network.mode.has_addresses() {
        errors.push(
            Error::new("ports are forwarded to a machine with a link of its own only")
                .with_hint("set network.mode = \"veth\" or \"zone\", or take the ports out"),
        );
    }
    if ports.iter().map(Port::count).sum::<usize>() > MOST_PORTS {
        errors.push(Error::new(format!("more than {MOST_PORTS} ports are forwarded")));
    }
    for port in network.on_demand.iter().filter(|port| port.protocol != Protocol::Tcp) {
        errors.push(
            Error::new(format!("datagrams start no machine: '{port}' is in 'network.on-demand'"))
                .with_hint("write it into network.ports"),
        );
    }
    for (at, port) in ports.iter().enumerate() {
        if let Some(other) = ports.iter().take(at).find(|other| other.overlaps(port)) {
            errors.push(Error::new(format!("the ports '{other}' and '{port}' overlap")));
        }
    }
    errors
}

/// The most networks that one machine may speak to.
const MOST_NETWORKS: usize = 256;

/// What is wrong with the bounds of what it may send and get.
fn bounds(network: &Network) -> Vec<Error> {
    let mut errors = Vec::new();
    let is_bound = !network.egress.is_empty()
        || network.rate_in.is_some()
        || network.rate_out.is_some()
        || network.connections_max.is_some();
    if is_bound && !network.mode.has_addresses() {
        errors.push(
            Error::new(
                "only a machine with a link of its own is bound by network.egress, network.rate-* and \
                 network.connections-max",
            )
            .with_hint("set network.mode = \"veth\", or take them out"),
        );
    }
    let says = |one| network.egress.contains(&one);
    if says(Destination::Zone) && network.mode != Mode::Zone {
        errors.push(
            Error::new("network.egress names the zone of a machine that is in none")
                .with_hint("write \"none\", or networks as \"10.0.0.0/8\""),
        );
    }
    if network.egress.len() > MOST_NETWORKS {
        errors.push(Error::new(format!("network.egress names more than {MOST_NETWORKS} networks")));
    }
    errors
}

/// The options of a tmpfs that there are not: none may be passed over in silence.
fn unknown_options(options: &str) -> Option<Error> {
    let key = |option: &str| option.split('=').next().unwrap_or_default().trim().to_owned();
    let known = |key: &str| TMPFS_OPTIONS.contains(&key) || TMPFS_ATTRIBUTES.contains(&key);
    let unknown = options.split(',').map(key).find(|key| !key.is_empty() && !known(key))?;
    Some(Error::new(format!("a tmpfs has no option '{unknown}'")).with_hint(format!(
        "there are {} and {}",
        TMPFS_OPTIONS.join(", "),
        TMPFS_ATTRIBUTES.join(", ")
    )))
}
