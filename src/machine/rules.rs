//! Rules across the parts of a machine, each with the reason.

use super::Parts;
use super::command::Payload;
use super::egress::Destination;
use super::mounts::{MountKind, TMPFS_ATTRIBUTES, TMPFS_OPTIONS};
use super::network::{MOST_PORTS, Mode, Network, Port};
use super::users::{Ownership, Users};
use crate::error::Error;

/// Every rule that `parts` break.
pub fn broken(parts: &Parts) -> Vec<Error> {
    let mut errors = Vec::new();
    if parts.root.directory == std::path::Path::new("/") {
        errors.push(
            Error::new("the root directory is '/', the host's own")
                .hint("name a directory with a root file system of its own"),
        );
    }
    if let Users::Fixed { base, count } = parts.users
        && (base.checked_add(count).is_none() || count == 0)
    {
        errors.push(Error::new(format!("user id range {base}:{count} does not fit 32 bits")));
    }
    if parts.ownership == Ownership::Map && parts.users == Users::Host {
        errors
            .push(Error::new("ownership 'map' needs a user namespace").hint("set users.private = \"pick\""));
    }
    if let Payload::Boot { .. } = parts.command.payload
        && parts.command.user.as_deref().is_some_and(|user| user != "root" && user != "0")
    {
        errors.push(Error::new("an init system runs as root, not as another user"));
    }
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

/// What is wrong with the ports.
fn ports(network: &Network) -> Vec<Error> {
    let ports = &network.ports;
    let mut errors = Vec::new();
    if !ports.is_empty() && network.mode != Mode::Veth {
        errors.push(
            Error::new("ports are forwarded to a machine with a link of its own only")
                .hint("set network.mode = \"veth\", or take the ports out"),
        );
    }
    if ports.iter().map(Port::count).sum::<usize>() > MOST_PORTS {
        errors.push(Error::new(format!("more than {MOST_PORTS} ports are forwarded")));
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
    let is_bound = !network.egress.is_empty() || network.rate_in.is_some() || network.rate_out.is_some();
    if is_bound && matches!(network.mode, Mode::Host | Mode::None) {
        errors.push(
            Error::new("only a machine with a link of its own is bound by network.egress and network.rate-*")
                .hint("set network.mode = \"veth\", or take them out"),
        );
    }
    if network.egress.contains(&Destination::Zone) && network.mode.as_str() != "zone" {
        errors.push(
            Error::new("network.egress names the zone of a machine that is in none")
                .hint("write \"none\", or networks as \"10.0.0.0/8\""),
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
    Some(Error::new(format!("a tmpfs has no option '{unknown}'")).hint(format!(
        "there are {} and {}",
        TMPFS_OPTIONS.join(", "),
        TMPFS_ATTRIBUTES.join(", ")
    )))
}
