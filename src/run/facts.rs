//! What a plan depends on, looked up on the host and in the tree. Nothing is made but the record
//! of an id range.

use super::Keep;
use crate::error::{Error, Result};
use crate::host::probe::{self, Tree};
use crate::host::runtime::runtime;
use crate::host::systemd::units;
use crate::host::{lock, lsm};
use crate::machine::Machine;
use crate::machine::command::Payload;
use crate::machine::hash::siphash;
use crate::machine::init::Init;
use crate::machine::mounts::MountKind;
use crate::machine::network::{HostsMode, Mode, ResolvConf, ResolvMethod, Zone};
use crate::machine::users::{Ownership, RANGE_SIZE, Users};
use crate::network::addresses;
use crate::network::addresses::zone;
use crate::network::addresses::zone::Present;
use crate::network::addresses::{Plan, Prefix};
use crate::network::dhcp::Lease;
use crate::network::hosts_file::Hosts;
use crate::network::interfaces;
use crate::network::interfaces::ExtraInterface;
use crate::network::{listeners, networkd, resolv_conf, sysctl, veth};
use crate::paths::Paths;
use crate::paths::access::refuse_open;
use crate::plan::step::ResolvConfAction;
use crate::plan::{self, Facts};
use crate::state::id_ranges;
use crate::state::record::Record;
use crate::supervisor::handover::{Carried, Link};
use crate::supervisor::launch::Names;
use crate::supervisor::reserve;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What was found.
pub struct Found {
    /// For the plan.
    pub facts: Facts,
    /// For the link.
    pub link: Link,
    /// For a guest that asks for its addresses.
    pub lease: Option<Lease>,
    /// Its interfaces beside the link.
    pub wires: Vec<ExtraInterface>,
    /// Its file of names, where it is to have ours.
    pub names: Option<Names>,
    /// Device and inode of the root.
    pub root_identity: (u64, u64),
    /// Whether the machine's ids are to be locked: they are nobody else's while it runs.
    pub locks_ids: bool,
}

/// Refuses ports at which others listen. At those that start a machine systemd does, for us.
fn refuse_taken(paths: &Paths, machine: &Machine) -> Result<()> {
    let on_demand = &machine.network.on_demand;
    let others = machine.network.ports.iter().filter(|port| !on_demand.contains(port));
    listeners::refuse_listening(paths, &others.copied().collect::<Vec<_>>())?;
    listeners::refuse_listening(paths, on_demand).or_else(|error| {
        let unit = crate::machine::unit::on_demand_socket(&machine.name);
        match runtime()?.block_on(units::unit_properties(&unit)) {
            Ok(socket) if socket.active_state == "active" => Ok(()),
            _ => Err(error),
        }
    })
}

/// Looks everything up.
///
/// # Errors
/// A tree that is no root, no init in it, no user, no ids.
pub fn find(paths: &Paths, machine: &Machine, keep: Keep, kept: Option<&Carried>) -> Result<Found> {
    check_sources(machine)?;
    let mounts = machine.mounts.iter().map(|mount| match &mount.kind {
        MountKind::Bind { source, .. } => (mount.target.as_path(), Some(source.as_path())),
        MountKind::Tmpfs { .. } | MountKind::Inaccessible => (mount.target.as_path(), None),
    });
    let tree = Tree::open(&machine.root.directory)?.with_mounts(mounts)?;
    let booting = matches!(machine.command.payload, Payload::Boot { .. });
    tree.check_is_root(booting)?;
    if kept.is_none() {
        refuse_taken(paths, machine)?;
    }
    let init = booting.then(|| tree.find_init(&machine.boot.init)).transpose()?;
    let socketcall = needs_socketcall(machine, &tree, init.as_ref().map(|(path, _)| path.as_path()))
        || lsm::refuses_families(&machine.security);
    let user = tree.user(machine.command.user.as_deref().unwrap_or("root"))?;
    check_access(machine, keep)?;
    let id_base = ids(paths, machine, keep, kept, tree_base(machine, &tree)?)?;
    let has_ipv6 = sysctl::has_ipv6();
    let link = link(paths, machine, kept)?.map(|plan| Plan { has_ipv6, ..plan });
    let resolver = link.as_ref().and_then(|plan| name_servers(paths, machine, plan));
    let guest_network_file = link.as_ref().map(|plan| {
        let served = paths.systemd("netif").is_dir();
        let dhcp = if served { networkd::Dhcp::Served } else { networkd::Dhcp::Absent };
        networkd::guest_network_file(plan, dhcp)
    });
    let lease = link.as_ref().map(|plan| Lease::new(plan, resolver.as_ref()));
    let wires = ExtraInterface::all(&machine.name, &machine.network, &probe::host_id());
    if kept.is_none() && !wires.is_empty() {
        runtime()?.block_on(interfaces::check(&wires))?;
    }
    let names = (link.is_some() || booting).then(|| names(paths, machine, &tree)).flatten();
    let locks_ids = matches!(machine.users, Users::Pick | Users::Fixed { .. });
    let facts = Facts {
        id_base,
        has_shifted_owners: id_base.is_some() && tree_base(machine, &tree)? == id_base,
        user_namespace: machine.users != Users::Host,
        machine_id: machine_id(machine, &tree),
        boot_id: probe::random_id(),
        host_os_release: probe::host_os_release(),
        init_has_successor: init
            .as_ref()
            .is_some_and(|(path, kind)| *kind == Init::Unknown && tree.may_have_successor(path)),
        init,
        socketcall,
        user,
        bounding: probe::bounding_set(),
        terminal: std::env::var("TERM").unwrap_or_else(|_| "dumb".into()),
        devices: probe::devices(),
        further_devices: probe::named_devices(&machine.security)?,
        guest_network_file,
        resolved_drop_in: resolver.as_ref().map(resolv_conf::Resolver::drop_in),
        resolv_conf: resolv_conf(paths, machine, resolver),
        hosts_file: names.as_ref().filter(|names| names.bound.is_some()).map(|names| names.hosts.path()),
        attach_at: paths.machine(&machine.name).join("root"),
        label: lsm::of_machine(&machine.security)?,
        on_terminal: on_terminal(),
    };
    Ok(Found { facts, link, lease, wires, names, root_identity: tree.identity()?, locks_ids })
}

/// Returns the host's name servers as the machine reaches them. `None` if the machine does not follow them.
fn name_servers(paths: &Paths, machine: &Machine, link: &Plan) -> Option<resolv_conf::Resolver> {
    (machine.network.resolv_conf == ResolvConf::Auto)
        .then(|| resolv_conf::find(paths).unwrap_or_default().behind(Some(link.ipv4.host)))
}

/// Whether what runs in a machine is for 32 bit x86, whose C libraries create sockets by socketcall(2).
fn needs_socketcall(machine: &Machine, tree: &Tree, init: Option<&Path>) -> bool {
    let named = match &machine.command.payload {
        Payload::Command { argv, .. } => plan::candidates(argv),
        Payload::Boot { .. } => init.into_iter().map(Path::to_owned).collect(),
    };
    let shell = PathBuf::from("/bin/sh");
    let architecture = named.iter().chain([&shell]).find_map(|program| tree.architecture(program));
    architecture == Some(plan::init::Architecture::Named("x86"))
}

/// What becomes of the guest's resolv.conf. A file that the host does not have is no reason not to start. A host
/// without name servers may have some later, as one that boots has.
fn resolv_conf(
    paths: &Paths,
    machine: &Machine,
    ours: Option<resolv_conf::Resolver>,
) -> Option<ResolvConfAction> {
    let (way, file) = match machine.network.resolv_conf {
        ResolvConf::Auto => {
            return ours.map(|resolver| {
                let make = if resolver.servers.is_empty() {
                    ResolvConfAction::WriteIfMissing
                } else {
                    ResolvConfAction::Write
                };
                make(resolver.to_string())
            });
        }
        ResolvConf::Off => return None,
        ResolvConf::Delete => return Some(ResolvConfAction::Delete),
        ResolvConf::From(way, file) => (way, paths.join(file.path())),
    };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => {
            let keeps = "the guest keeps its resolv.conf";
            log::warn!("cannot read '{}': {error}: {keeps}", file.display());
            return None;
        }
    };
    Some(match way {
        ResolvMethod::Copy => ResolvConfAction::Copy(text),
        ResolvMethod::Replace => ResolvConfAction::Replace(text),
        ResolvMethod::Bind => ResolvConfAction::Bind(file),
    })
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
            .with_hint("make it on the host first, or take the mount out of the definition")),
    }
}

/// Refuses trees that users of the host can reach. Whoever runs a machine by hand is warned only.
fn check_access(machine: &Machine, keep: Keep) -> Result<()> {
    for tree in machine.owned_trees() {
        match (refuse_open(tree), keep) {
            (Err(error), Keep::Recorded) => return Err(error),
            (Err(error), Keep::WhileRunning) => {
                log::warn!(
                    "{error}: its setuid programs are the host's; {}",
                    error.hint().unwrap_or_default()
                );
            }
            (Ok(()), _) => {}
        }
    }
    Ok(())
}

/// The first id of the range that the owners of a tree are in, where its ids would be mapped: another container manager
/// has changed the owners. `None` for a tree whose owners begin at 0.
fn tree_base(machine: &Machine, tree: &Tree) -> Result<Option<u32>> {
    if machine.ownership == Ownership::Off || !matches!(machine.users, Users::Pick | Users::Fixed { .. }) {
        return Ok(None);
    }
    let (uid, gid) = tree.owner(Path::new("/"))?;
    let is_one_range = gid.checked_sub(uid).is_some_and(|group| group < RANGE_SIZE);
    Ok((uid >= RANGE_SIZE && is_one_range).then_some(uid))
}

/// The first id of the machine's range.
fn ids(
    paths: &Paths,
    machine: &Machine,
    keep: Keep,
    kept: Option<&Carried>,
    tree: Option<u32>,
) -> Result<Option<u32>> {
    match (kept, machine.users) {
        (Some(kept), _) => Ok(kept.state.record.id_base),
        (None, Users::Pick) if tree.is_some_and(|base| base % RANGE_SIZE == 0) => tree
            .map(|base| id_ranges::adopt(paths, &machine.name, base, keep, plan::id_count(machine)))
            .transpose(),
        (None, Users::Pick) if let Some(base) = tree => {
            Err(id_ranges::shifted(base, "which does not begin at a multiple of 65536"))
        }
        (None, Users::Pick) => {
            id_ranges::choose(paths, &machine.name, keep, plan::id_count(machine)).map(Some)
        }
        (None, Users::Fixed { base, .. }) => Ok(Some(base)),
        (None, Users::Identity) => Ok(Some(0)),
        (None, Users::Host) => Ok(None),
    }
}

/// Names and addresses of the link, next to what the host has.
fn link(paths: &Paths, machine: &Machine, kept: Option<&Carried>) -> Result<Link> {
    let own = match (&machine.network.zone, machine.network.mode) {
        (Some(zone), Mode::Zone) => zone.bridge(),
        (_, Mode::Veth) => addresses::host_interface_name("ve-", &machine.name).0,
        _ => return Ok(None),
    };
    let mut taken = runtime()?.block_on(veth::taken_prefixes(&own))?;
    let host = probe::host_id();
    match &machine.network.zone {
        Some(zone) => {
            let present = present(paths, machine, zone, kept, &mut taken);
            zone::plan(&machine.name, zone, &host, &taken, &present).map(Some)
        }
        None => own_link(paths, machine, kept, taken).map(Some),
    }
}

/// A link of the machine's own: after a reboot the one it had, else one whose addresses nobody has who is
/// just starting.
fn own_link(
    paths: &Paths,
    machine: &Machine,
    kept: Option<&Carried>,
    mut taken: Vec<Prefix>,
) -> Result<Plan> {
    let host = probe::host_id();
    let before = kept.map(|kept| &kept.state.record).filter(|record| record.zone.is_none());
    let had = before.and_then(|record| {
        record.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => addresses::plan_of_address(&machine.name, &host, *address),
            IpAddr::V6(_) => None,
        })
    });
    if let Some(plan) = had {
        return Ok(plan);
    }
    loop {
        let plan = addresses::plan(&machine.name, &host, &taken)?;
        if !lock::is_taken(&reserve::address_file(paths, plan.ipv4.guest)) {
            return Ok(plan);
        }
        taken.push(Prefix::host(plan.ipv4.guest.into()));
    }
}

/// Who is in a zone, and where the machine itself was before its reboot. What other machines are to
/// have is taken, though their links may not be there yet.
fn present(
    paths: &Paths,
    machine: &Machine,
    zone: &Zone,
    kept: Option<&Carried>,
    taken: &mut Vec<Prefix>,
) -> Present {
    let mut present = Present::default();
    for record in Record::all(paths) {
        let Some(member) = record.firewall.as_ref().filter(|_| record.name != machine.name.as_str()) else {
            continue;
        };
        if !record.is_alive() {
            continue;
        }
        if member.zone() == Some(zone) {
            present.members.push(member.addresses().0);
        } else {
            taken.push(Prefix::host(member.addresses().0.into()));
        }
    }
    let before = kept.and_then(|kept| kept.state.record.firewall.as_ref());
    let before = before.filter(|member| member.zone() == Some(zone));
    present.own = before.map(|member| member.addresses().0);
    present
}

/// Where the guest's names go: to the tree's own file, or over it where nobody can write.
fn names(paths: &Paths, machine: &Machine, tree: &Tree) -> Option<Names> {
    if machine.network.hosts == HostsMode::Off {
        return None;
    }
    let hosts = Hosts::of_tree(&machine.root.directory);
    let own = own_names(machine, tree);
    if !machine.root.read_only && hosts.is_writable() {
        return Some(Names { own, hosts, bound: None });
    }
    // Without a file there is no place to bind one.
    let text = tree.read_text("/etc/hosts")?;
    let state = paths.machine(&machine.name);
    Some(Names { own, hosts: Hosts::bound(&state), bound: Some(text) })
}

/// The host names that the guest may find in its kernel: the one that it is given, and the one that its own init sets
/// (hostname(5)).
fn own_names(machine: &Machine, tree: &Tree) -> Vec<String> {
    let text = tree.read_text("/etc/hostname").unwrap_or_default();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let is_name = |name: &&str| {
        name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let mut names = vec![plan::identity::hostname(machine), machine.name.to_string()];
    names.extend(line.filter(is_name).map(str::to_owned));
    let mut seen = Vec::new();
    names.retain(|name| {
        let is_new = !seen.contains(name);
        seen.push(name.clone());
        is_new
    });
    names
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
