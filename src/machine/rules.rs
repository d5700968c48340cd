//! Rules across the parts of a machine. Called by `Machine::new`.

use super::Parts;
use super::address_families::AddressFamilies;
use super::command::Payload;
use super::contract::Contract;
use super::credentials::Credential;
use super::egress::Destination;
use super::mounts::{MountKind, TMPFS_ATTRIBUTES, TMPFS_OPTIONS};
use super::network::{Addresses, InterfaceKind, MAX_PORTS, Mode, Network, Port, Protocol};
use super::root::{Ephemeral, Root, RootSource, Volatile};
use super::security::{Procfs, Sysctl};
use super::static_address;
use super::users::{Ownership, RANGE_SIZE, Users};
use crate::error::Error;

/// Returns one error for each rule that `parts` break.
pub(crate) fn broken(parts: &Parts) -> Vec<Error> {
    let mut errors = root(parts.contract, &parts.root);
    if let Users::Fixed { base, count } = parts.users
        && (base.checked_add(count).is_none() || count == 0)
    {
        errors.push(Error::new(format!("the user id range {base}:{count} exceeds 32 bits")));
    }
    errors.extend(ownership(parts));
    errors.extend(writable_api(parts));
    if parts.security.nesting && matches!(parts.users, Users::Identity | Users::OfRoot) {
        // Root inside would have the rights of root of the host in the procfs and sysfs without masks.
        errors.push(
            Error::new("security.nesting requires separate user ids")
                .with_hint("set users.private = \"pick\""),
        );
    }
    if parts.security.procfs == Procfs::Full && !parts.users.are_separate() {
        errors.push(
            Error::new("security.procfs = \"full\" requires separate user ids")
                .with_hint("set users.private = \"pick\""),
        );
    }
    if parts.security.procfs == Procfs::Masked && parts.security.nesting {
        errors.push(
            Error::new("security.nesting requires security.procfs = \"full\"")
                .with_hint("set security.procfs = \"auto\""),
        );
    }
    if let Payload::Boot { .. } = parts.command.payload
        && parts.command.user.as_deref().is_some_and(|user| user != "root" && user != "0")
    {
        errors.push(Error::new("an init system must run as root"));
    }
    if let Payload::Boot { .. } = parts.command.payload
        && !parts.security.capabilities_ambient.is_empty()
    {
        errors.push(
            Error::new("ambient capabilities are not possible for an init system")
                .with_hint("remove --ambient-capability=, or name a command"),
        );
    }
    errors.extend(unsafe_parameters(parts).into_iter().chain(profile(parts)));
    errors.extend(repeated_credentials(&parts.credentials));
    if parts.journal.link.is_required() && parts.root.ephemeral != Ephemeral::No {
        errors.push(
            Error::new("the journal of an ephemeral machine cannot be linked")
                .with_hint("set journal.link = \"no\", or begin its value with 'try-'"),
        );
    }
    errors.extend(disk_limit(parts).into_iter().chain(connection(&parts.network)));
    errors.extend(ports(&parts.network));
    errors.extend(restrictions(&parts.network));
    errors.extend(plain_links(&parts.network).into_iter().chain(static_address::broken(&parts.network)));
    for mount in &parts.mounts {
        if let MountKind::Tmpfs { options } = &mount.kind {
            errors.extend(unknown_options(options));
        }
        if !mount.target.is_absolute() {
            errors.push(Error::new(format!("the mount target '{}' is not absolute", mount.target.display())));
        }
    }
    errors
}

/// Refuses a limit of the disk space of files that are not kept.
fn disk_limit(parts: &Parts) -> Option<Error> {
    let root = &parts.root;
    let key = match &root.source {
        _ if root.ephemeral != Ephemeral::No => "root.ephemeral",
        _ if matches!(root.volatile, Volatile::Yes | Volatile::Overlay) => "root.volatile",
        RootSource::Image(_) => "root.image",
        _ => return None,
    };
    parts.resources.disk_max.filter(|bytes| *bytes != u64::MAX).map(|_| {
        Error::new(format!("resources.disk-max and {key} exclude each other"))
            .with_hint("remove one of the two")
    })
}

/// Refuses restrictions that a profile of system calls would replace.
fn profile(parts: &Parts) -> Option<Error> {
    let security = &parts.security;
    let is_restricted = security.address_families != AddressFamilies::All || parts.boot.suppress_sync;
    (security.syscalls_profile.is_some() && is_restricted).then(|| {
        Error::new("the filter of system calls of a bundle excludes restricted address families and suppressed syncs")
            .with_hint("remove --restrict-address-families= and --suppress-sync=")
    })
}

/// Refuses parameters of the kernel that would change the host.
fn unsafe_parameters(parts: &Parts) -> Vec<Error> {
    let is_safe = |sysctl: &&Sysctl| {
        sysctl.is_of_machine() || sysctl.is_of_network() && parts.network.mode.is_private()
    };
    let refused = parts.security.sysctls.iter().filter(|sysctl| !is_safe(sysctl));
    let error = |sysctl: &Sysctl| {
        Error::new(format!("the kernel's '{}' is not a parameter of the machine's namespaces", sysctl.key))
            .with_hint("set it on the host with sysctl(8)")
    };
    refused.map(error).collect()
}

/// Checks the names of credentials.
fn repeated_credentials(credentials: &[Credential]) -> Option<Error> {
    let is_repeated =
        |(at, one): &(usize, &Credential)| credentials[..*at].iter().any(|earlier| earlier.name == one.name);
    let (_, repeated) = credentials.iter().enumerate().find(is_repeated)?;
    Some(
        Error::new(format!("the credential '{}' is both set and loaded", repeated.name))
            .with_hint("remove one of the two"),
    )
}

/// Checks the ownership of files against the ids and the root.
fn ownership(parts: &Parts) -> Vec<Error> {
    let mut errors = Vec::new();
    let word = match parts.ownership {
        Ownership::Off => return errors,
        Ownership::Map => "map",
        Ownership::Chown => "chown",
    };
    if parts.users == Users::Host {
        errors.push(
            Error::new(format!("users.ownership = \"{word}\" requires a user namespace"))
                .with_hint("set users.private = \"pick\""),
        );
    }
    if parts.ownership == Ownership::Map {
        return errors;
    }
    let map = "set users.ownership = \"map\": files do not change";
    if parts.id_count() != RANGE_SIZE {
        errors.push(
            Error::new(format!("users.ownership = \"chown\" requires a range of {RANGE_SIZE} user ids"))
                .with_hint(map),
        );
    }
    let key = match &parts.root {
        Root { source: RootSource::Stack(_), .. } => "root.stack",
        Root { source: RootSource::Image(_), .. } => "root.image",
        Root { read_only: true, .. } => "root.read-only = true",
        Root { volatile, .. } if *volatile != Volatile::No => "root.volatile",
        _ => return errors,
    };
    errors
        .push(Error::new(format!("users.ownership = \"chown\" and {key} exclude each other")).with_hint(map));
    errors
}

/// Refuses writable file systems of the kernel that the ids or the network of the machine contradict.
fn writable_api(parts: &Parts) -> Option<Error> {
    if parts.switches.writable_api && parts.users != Users::Host {
        return Some(
            Error::new("SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes and private users exclude each other")
                .with_hint("add --private-users=no"),
        );
    }
    let is_refused = parts.switches.network_settings && !parts.network.mode.is_private();
    is_refused.then(|| {
        Error::new("SYSTEMD_NSPAWN_API_VFS_WRITABLE=network requires a private network")
            .with_hint("add --private-network")
    })
}

/// Checks the source of the root.
fn root(contract: Contract, root: &Root) -> Vec<Error> {
    let mut errors = Vec::new();
    // systemd-nspawn(1) runs the host's own root if it does not change it.
    let is_possible = contract == Contract::Nspawn && root.keeps_source();
    if root.path() == std::path::Path::new("/") && !is_possible {
        errors.push(
            Error::new("the root directory is '/', the root of the host")
                .with_hint("choose a directory with another root file system"),
        );
    }
    if let RootSource::Stack(path) = &root.source
        && RootSource::of_path(path.clone()) != root.source
    {
        errors.push(
            Error::new(format!("the name of the stack '{}' does not end in '.mstack'", path.display()))
                .with_hint("rename it, or set root.directory if it is a tree"),
        );
    }
    if root.image_policy.is_some()
        && !matches!(root.source, RootSource::Image(_))
        && contract == Contract::Coracle
    {
        errors.push(
            Error::new("root.image-policy requires a disk image")
                .with_hint("set root.image, or remove the policy"),
        );
    }
    errors.extend(hashes(contract, root));
    let other = match root {
        Root { source: RootSource::Stack(_), .. } => Some("root.stack"),
        Root { source: RootSource::Image(_), .. } => Some("root.image"),
        Root { volatile, .. } if *volatile != Volatile::No => Some("root.volatile"),
        Root { ephemeral, .. } if *ephemeral != Ephemeral::No => Some("root.ephemeral"),
        _ => None,
    };
    if let (Some(_), Some(key)) = (&root.pivot, other) {
        errors.push(
            Error::new(format!("root.pivot and {key} exclude each other")).with_hint("remove one of them"),
        );
    }
    if root.volatile != Volatile::No && root.ephemeral != Ephemeral::No {
        errors.push(
            Error::new("root.volatile and root.ephemeral exclude each other").with_hint("remove one of them"),
        );
    }
    errors
}

/// Refuses hashes for a root that is not a disk image.
fn hashes(contract: Contract, root: &Root) -> Vec<Error> {
    if matches!(root.source, RootSource::Image(_)) || contract != Contract::Coracle {
        return Vec::new();
    }
    let keys = [
        ("root.root-hash", root.verity.root_hash.is_some()),
        ("root.root-hash-signature", root.verity.signature.is_some()),
        ("root.verity-data", root.verity.data.is_some()),
    ];
    let error = |key: &str| {
        Error::new(format!("{key} requires a disk image")).with_hint("set root.image, or remove the setting")
    };
    keys.iter().filter(|(_, is_set)| *is_set).map(|(key, _)| error(key)).collect()
}

/// Checks the mode against the settings that it requires or excludes.
fn connection(network: &Network) -> Vec<Error> {
    let mode = network.mode;
    let has = |kind| network.interfaces.iter().any(|interface| interface.kind == kind);
    let of_one_mode = [
        (Mode::Zone, network.zone.is_some(), "zone"),
        (Mode::Bridge, network.bridge.is_some(), "bridge"),
        (Mode::Namespace, network.namespace.is_some(), "namespace-path"),
    ];
    let first_of_mode = [
        (Mode::Macvlan, has(InterfaceKind::Macvlan), "macvlan"),
        (Mode::Ipvlan, has(InterfaceKind::Ipvlan), "ipvlan"),
        (Mode::Interface, has(InterfaceKind::Moved), "interface"),
    ];
    let mut errors = Vec::new();
    for (required_by, given, key) in of_one_mode.iter().chain(&first_of_mode) {
        if mode == *required_by && !given {
            errors.push(Error::new(format!("network.mode = \"{}\" requires network.{key}", mode.as_str())));
        }
    }
    for (belongs, given, key) in of_one_mode {
        if given && mode != belongs {
            errors.push(
                Error::new(format!("network.{key} has no effect with network.mode = \"{}\"", mode.as_str()))
                    .with_hint(format!("set network.mode = \"{}\" or remove the setting", belongs.as_str())),
            );
        }
    }
    if !network.interfaces.is_empty() && !mode.makes_namespace() {
        errors.push(
            Error::new(format!(
                "additional interfaces are not possible with network.mode = \"{}\"",
                mode.as_str()
            ))
            .with_hint("set network.mode to \"veth\", \"zone\", \"bridge\" or \"none\""),
        );
    }
    let mut inside: Vec<&str> = Vec::new();
    for interface in &network.interfaces {
        let name = interface.names.inside.as_ref().unwrap_or(&interface.names.host).as_str();
        let is_prefixed = interface.names.inside.is_none()
            && matches!(interface.kind, InterfaceKind::Macvlan | InterfaceKind::Ipvlan);
        if matches!(name, "lo" | "host0") || (!is_prefixed && inside.contains(&name)) {
            errors.push(Error::new(format!("two interfaces of the machine have the name '{name}'")));
        }
        inside.push(name);
    }
    errors
}

/// Checks the forwarded ports.
fn ports(network: &Network) -> Vec<Error> {
    let ports = &network.ports;
    let mut errors = Vec::new();
    let is_possible = match network.addresses {
        Addresses::Auto => network.mode.has_link(),
        Addresses::None => network.mode.is_private(),
    };
    if !ports.is_empty() && !is_possible {
        errors.push(
            Error::new("network.ports requires network.mode = \"veth\" or \"zone\"")
                .with_hint("set the mode or remove the ports"),
        );
    }
    if ports.iter().map(Port::count).sum::<usize>() > MAX_PORTS {
        errors.push(Error::new(format!("more than {MAX_PORTS} forwarded ports")));
    }
    for port in network.on_demand.iter().filter(|port| port.protocol != Protocol::Tcp) {
        errors.push(
            Error::new(format!("UDP ports cannot start a machine: '{port}' in network.on-demand"))
                .with_hint("move the port to network.ports"),
        );
    }
    for (at, port) in ports.iter().enumerate() {
        if let Some(other) = ports.iter().take(at).find(|other| other.overlaps(port)) {
            errors.push(Error::new(format!("the ports '{other}' and '{port}' overlap")));
        }
    }
    errors
}

/// Checks the settings that plain links exclude: Coracle neither filters nor configures them.
fn plain_links(network: &Network) -> Vec<Error> {
    if network.addresses == Addresses::Auto {
        return Vec::new();
    }
    let excluded = [
        ("on-demand", !network.on_demand.is_empty()),
        ("egress", !network.egress.is_empty()),
        ("rate-in", network.rate_in.is_some()),
        ("rate-out", network.rate_out.is_some()),
        ("connections-max", network.connections_max.is_some()),
        ("veth-extra-routed", network.veth_extra_routed),
    ];
    let error = |(key, _)| {
        Error::new(format!("network.{key} has no effect with network.addresses = \"none\""))
            .with_hint("set network.addresses = \"auto\" or remove the setting")
    };
    excluded.into_iter().filter(|(_, is_set)| *is_set).map(error).collect()
}

/// The maximum number of items of `network.egress`.
const MAX_NETWORKS: usize = 256;

/// Checks the restrictions of traffic.
fn restrictions(network: &Network) -> Vec<Error> {
    let mut errors = Vec::new();
    let is_restricted = !network.egress.is_empty()
        || network.rate_in.is_some()
        || network.rate_out.is_some()
        || network.connections_max.is_some();
    if is_restricted && !network.mode.has_link() {
        errors.push(
            Error::new(
                "network.egress, network.rate-* and network.connections-max require \
                 network.mode = \"veth\" or \"zone\"",
            )
            .with_hint("set the mode or remove the settings"),
        );
    }
    if network.egress.contains(&Destination::Zone) && network.mode != Mode::Zone {
        errors.push(
            Error::new("network.egress = \"zone\" requires network.mode = \"zone\"")
                .with_hint("write \"none\", or networks, for example \"10.0.0.0/8\""),
        );
    }
    if network.egress.len() > MAX_NETWORKS {
        errors.push(Error::new(format!("network.egress has more than {MAX_NETWORKS} networks")));
    }
    errors
}

/// Checks the options of a tmpfs: an unknown option is an error.
fn unknown_options(options: &str) -> Option<Error> {
    let key = |option: &str| option.split('=').next().unwrap_or_default().trim().to_owned();
    let known = |key: &str| TMPFS_OPTIONS.contains(&key) || TMPFS_ATTRIBUTES.contains(&key);
    let unknown = options.split(',').map(key).find(|key| !key.is_empty() && !known(key))?;
    Some(Error::new(format!("unknown tmpfs option '{unknown}'")).with_hint(format!(
        "use one of {}, {}",
        TMPFS_OPTIONS.join(", "),
        TMPFS_ATTRIBUTES.join(", ")
    )))
}
