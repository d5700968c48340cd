//! What a plan depends on, looked up on the host and in the tree. Nothing is made but the record
//! of an id range.

use super::Keep;
use crate::error::{Error, Result};
use crate::host::lease::Lease;
use crate::host::netlink::plan::siphash;
use crate::host::probe::{self, Tree};
use crate::host::{ids, netlink, networkd, ports, resolver};
use crate::machine::Machine;
use crate::machine::command::Payload;
use crate::machine::mounts::MountKind;
use crate::machine::network::{Mode, ResolvConf};
use crate::machine::users::Users;
use crate::paths::Paths;
use crate::plan::Facts;
use crate::supervisor::handover::{Kept, Link};
use crate::supervisor::runtime;

/// What was found.
pub struct Found {
    /// For the plan.
    pub facts: Facts,
    /// For the link.
    pub link: Link,
    /// For a guest that asks for its addresses.
    pub lease: Option<Lease>,
    /// Device and inode of the root.
    pub root_identity: (u64, u64),
    /// Whether the machine's ids are to be locked: they are nobody else's while it runs.
    pub locks_ids: bool,
}

/// Looks everything up.
///
/// # Errors
/// A tree that is no root, no init in it, no user, no ids.
pub fn find(paths: &Paths, machine: &Machine, keep: Keep, kept: Option<&Kept>) -> Result<Found> {
    let tree = Tree::open(&machine.root.directory)?;
    let booting = matches!(machine.command.payload, Payload::Boot { .. });
    tree.check_is_root(booting)?;
    check_sources(machine)?;
    if kept.is_none() {
        ports::refuse_listening(paths, &machine.network.ports)?;
    }
    let init = booting.then(|| tree.find_init(&machine.boot.init)).transpose()?;
    let user = tree.user(machine.command.user.as_deref().unwrap_or("root"))?;
    let id_base = ids(paths, machine, keep, kept)?;
    let link = link(machine)?;
    let resolver = match (&link, machine.network.resolv_conf) {
        (Some(_), ResolvConf::Auto) => resolver::find(paths),
        _ => None,
    };
    let guest_network_file = link.as_ref().map(|plan| {
        let served = paths.join("/run/systemd/netif").is_dir();
        let dhcp = if served { networkd::Dhcp::Served } else { networkd::Dhcp::Absent };
        networkd::guest_network_file(plan, dhcp, resolver.as_ref())
    });
    let lease = link.as_ref().map(|plan| Lease::new(plan, resolver.as_ref()));
    let locks_ids = matches!(machine.users, Users::Pick | Users::Fixed { .. });
    let facts = Facts {
        id_base,
        user_namespace: machine.users != Users::Host,
        machine_id: machine_id(machine, &tree),
        boot_id: probe::random_id(),
        host_os_release: probe::host_os_release(),
        init,
        user,
        bounding: probe::bounding_set(),
        terminal: std::env::var("TERM").unwrap_or_else(|_| "dumb".into()),
        devices: probe::devices(),
        further_devices: probe::named_devices(&machine.security.devices)?,
        guest_network_file,
        resolv_conf: resolver.map(|resolver| resolver.to_string()),
        attach_at: paths.machine(&machine.name).join("root"),
        on_terminal: on_terminal(),
    };
    Ok(Found { facts, link, lease, root_identity: tree.identity()?, locks_ids })
}

/// Every place of the host that is to be mounted has to be there.
fn check_sources(machine: &Machine) -> Result<()> {
    let missing = machine.mounts.iter().find_map(|mount| match &mount.kind {
        MountKind::Bind { source, .. } => source.metadata().err().map(|error| (source, mount, error)),
        _ => None,
    });
    match missing {
        None => Ok(()),
        Some((source, mount, error)) => Err(Error::from(error)
            .context(format!("cannot bind '{}' on '{}'", source.display(), mount.target.display()))
            .hint("make it on the host first, or take the mount out of the definition")),
    }
}

/// The first id of the machine's range.
fn ids(paths: &Paths, machine: &Machine, keep: Keep, kept: Option<&Kept>) -> Result<Option<u32>> {
    match (kept, machine.users) {
        (Some(kept), _) => Ok(kept.terms.record.id_base),
        (None, Users::Pick) => ids::choose(paths, &machine.name, keep).map(Some),
        (None, Users::Fixed { base, .. }) => Ok(Some(base)),
        (None, Users::Identity) => Ok(Some(0)),
        (None, Users::Host) => Ok(None),
    }
}

/// Names and addresses of the link, next to what the host has.
fn link(machine: &Machine) -> Result<Link> {
    if machine.network.mode != Mode::Veth {
        return Ok(None);
    }
    let (interface, _) = netlink::plan::host_interface_name(&machine.name);
    let taken = runtime()?.block_on(netlink::taken_prefixes(&interface))?;
    netlink::plan::plan(&machine.name, &probe::host_id(), &taken).map(Some)
}

/// The machine id: the definition's, or the tree's own, or one that belongs to this name on this
/// host for ever.
fn machine_id(machine: &Machine, tree: &Tree) -> [u8; 16] {
    const KEYS: [u128; 2] =
        [0x83c1_5e0f_a2d7_4b66_9d18_f470_3be9_5a2c, 0x1be4_7d92_60f5_4c0e_b3a7_28d1_95c6_ef40];
    let own = || {
        let host = probe::host_id();
        let half = |key| siphash(key, &[&host, machine.name.as_str().as_bytes()]);
        let [high, low] = KEYS.map(half);
        let mut id = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
        // The bits of a random UUID, which machine-id(5) asks of every machine id.
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        id
    };
    tree.machine_id().or(machine.identity.uuid).unwrap_or_else(own)
}

fn on_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin()) && rustix::termios::isatty(rustix::stdio::stdout())
}
