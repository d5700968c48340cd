//! Finds what a plan depends on: on the host and in the attached root. Called by `run`. It creates nothing.

use super::{bound_users, build, journal, placement, resolv_conf as nspawn, timezone};
use crate::claim::{Choice, ClaimedIds};
use crate::error::{Context, Result};
use crate::host::inotify;
use crate::host::lsm;
use crate::host::lxcfs;
use crate::host::probe::{self, Tree};
use crate::host::systemd::units;
use crate::image::attach::AttachedRoot;
use crate::machine::Machine;
use crate::machine::command::{Payload, UserIds};
use crate::machine::console::Console;
use crate::machine::contract::Contract;
use crate::machine::hash::siphash;
use crate::machine::id128::Id128;
use crate::machine::init::Init;
use crate::machine::mounts::{BindPath, Mount, MountIds, MountKind};
use crate::machine::network::{HostsMode, ResolvConf, ResolvMethod};
use crate::machine::users::Users;
use crate::network::addresses::LinkPlan;
use crate::network::dhcp::Lease;
use crate::network::hosts_file::Hosts;
use crate::network::interfaces::ExtraInterface;
use crate::network::{networkd, resolv_conf};
use crate::paths::Paths;
use crate::plan::step::ResolvConfAction;
use crate::plan::{self, BindOwners, Facts, User};
use crate::supervisor::launch::{HostsFile, JournalPlan};
use std::path::{Path, PathBuf};

/// The facts of the host and the tree, with the supervisor's input beside the plan.
pub(super) struct HostFacts {
    /// The input of the plan.
    pub(super) facts: Facts,
    /// The answers to a guest that requests its addresses by DHCP.
    pub(super) lease: Option<Lease>,
    /// The guest's hosts(5), if Coracle maintains lines in it.
    pub(super) hosts: Option<HostsFile>,
    /// The connection of its journal with the host.
    pub(super) journal: Option<JournalPlan>,
}

/// Finds all facts.
///
/// # Errors
/// A root without an init or without the user of the payload; a device that does not exist.
pub(super) fn find(
    paths: &Paths,
    machine: &Machine,
    tree: &Tree,
    attached: Option<&AttachedRoot>,
    choice: &Choice,
) -> Result<Box<HostFacts>> {
    let booting = matches!(machine.command.payload, Payload::Boot { .. });
    let init = booting.then(|| tree.find_init(&machine.boot.init)).transpose()?;
    let socketcall = needs_socketcall(machine, tree, init.as_ref().map(|(path, _)| path.as_path()))
        || lsm::refuses_families(&machine.security);
    let (user, finds_user) = user(machine, tree)?;
    let resolver = choice.link.as_ref().and_then(|plan| name_servers(paths, machine, plan));
    let lease = choice.link.as_ref().map(|plan| Lease::new(plan, resolver.as_ref()));
    let hosts = (choice.link.is_some() || booting).then(|| hosts_file(paths, machine, tree)).flatten();
    let status = probe::OwnStatus::read();
    let passed_descriptors = placement::passed_descriptors()?;
    let machine_id = machine_id(machine, tree);
    let (journal, directory) = journal::find(paths, machine, tree, machine_id, choice.ids.base)?.unzip();
    let is_systemd = matches!(init, Some((_, Init::Systemd)));
    let facts = Facts {
        build: build::find(paths, machine, tree)?,
        id_base: choice.ids.base,
        mapped_from: choice.ids.mapped_from,
        targets: tree.mount_points(machine.mounts.len()),
        bind_owners: bind_owners(machine, tree, attached.is_some(), &choice.ids)?,
        bound_users: bound_users::find(machine, tree)?,
        throwaway: PathBuf::new(),
        attached_targets: attached.map(|attached| attached.targets().map(Path::to_owned).collect()),
        user_namespace: machine.users != Users::Host,
        machine_id,
        boot_id: probe::random_id(),
        host_os_release: probe::host_os_release(),
        init_has_successor: init
            .as_ref()
            .is_some_and(|(path, kind)| *kind == Init::Unknown && tree.may_have_successor(path)),
        init,
        socketcall,
        has_hosts_name: is_systemd && has_hosts_name(tree),
        has_systemd: units::is_running(),
        user,
        finds_user,
        bounding: status.bounding,
        ignored_signals: status.ignored_signals,
        is_root: status.is_root,
        passed_descriptors,
        descriptor_names: placement::descriptor_names(passed_descriptors),
        terminal: std::env::var("TERM").unwrap_or_else(|_| "dumb".into()),
        color_variables: color_variables(),
        devices: probe::devices(),
        further_devices: probe::named_devices(&machine.security)?,
        guest_network_file: guest_network_file(paths, machine, choice),
        resolved_drop_in: resolver.as_ref().map(resolv_conf::Resolver::drop_in),
        hosts_file: hosts.as_ref().filter(|hosts| hosts.bound.is_some()).map(|hosts| hosts.file.path()),
        limit_files: if machine.resources.visible { lxcfs::files()? } else { Vec::new() },
        attach_at: paths.machine(&machine.name).join("root"),
        label: lsm::of_machine(&machine.security)?,
        on_terminal: machine.console == Console::Auto && on_terminal(),
        resolv_conf: resolv_conf(paths, machine, resolver),
        timezone: timezone::find(paths, machine),
        journal: directory.flatten(),
        journal_socket: machine.receives_journal().then(|| paths.machine(&machine.name).join("journal")),
    };
    tree.check_reads()?;
    refuse_exhausted(&facts)?;
    Ok(Box::new(HostFacts { facts, lease, hosts, journal }))
}

/// Refuses a guest of systemd that shares the inotify instances of the host's root, if too few are left.
fn refuse_exhausted(facts: &Facts) -> Result<()> {
    let is_systemd = matches!(facts.init, Some((_, Init::Systemd)));
    if is_systemd && !facts.user_namespace { inotify::refuse_exhausted() } else { Ok(()) }
}

/// Returns the user of the payload, and whether getent(1) of the machine looks it up: for a command of
/// another user than root that is given by name.
fn user(machine: &Machine, tree: &Tree) -> Result<(User, bool)> {
    if let Some(UserIds { uid, gid, groups }) = machine.command.ids.clone() {
        let (name, home) = ("root".to_owned(), "/root".to_owned());
        return Ok((User { name, uid, gid, groups, home, shell: "/bin/sh".into() }, false));
    }
    let name = machine.command.user.as_deref().unwrap_or("root");
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    let is_command = matches!(machine.command.payload, Payload::Command { .. });
    let has_getent = || ["/usr/bin/getent", "/bin/getent"].iter().any(|path| tree.has(Path::new(path)));
    let finds_user = is_command && name != "root" && !is_number && has_getent();
    let listed = match machine.contract {
        Contract::Coracle => tree.user(name),
        Contract::Nspawn => tree.listed_user(name),
    };
    match listed {
        Err(_) if finds_user => Ok((User::unlisted(name), true)),
        listed => Ok((listed?, finds_user)),
    }
}

/// Returns the owners of the bind mounts that map them. The owner of a missing target is root.
fn bind_owners(
    machine: &Machine,
    tree: &Tree,
    is_attached: bool,
    ids: &ClaimedIds,
) -> Result<Vec<(PathBuf, BindOwners)>> {
    let base = ids.base.unwrap_or_default();
    let seen = |id: u32| match ids.mapped_from {
        // An attached root shows its owners mapped.
        Some(disk) if !is_attached => id.wrapping_sub(disk).saturating_add(base),
        _ => id,
    };
    let points = tree.mount_points(machine.mounts.len());
    let owners = |(mount, point): (&Mount, &PathBuf)| {
        let MountKind::Bind { source: BindPath::Host(source), ids: map, .. } = &mount.kind else {
            return None;
        };
        if let MountIds::User(outside, inside) = map {
            return Some(user_owners(tree, outside, inside, base).map(|of| (mount.target.clone(), of)));
        }
        if !matches!(map, MountIds::Root | MountIds::Owner) {
            return None;
        }
        let stat = rustix::fs::stat(source);
        let stat = stat.context(|| format!("cannot look at bind source '{}'", source.display()));
        let target = tree.owner(point).map_or((base, base), |(user, group)| (seen(user), seen(group)));
        let of = |stat: rustix::fs::Stat| BindOwners { source: (stat.st_uid, stat.st_gid), target };
        Some(stat.map(|stat| (mount.target.clone(), of(stat))))
    };
    machine.mounts.iter().zip(&points).filter_map(owners).collect()
}

/// Returns the users that a bind mount maps.
fn user_owners(tree: &Tree, outside: &str, inside: &str, base: u32) -> Result<BindOwners> {
    let (user, group) = tree.user_ids(inside)?;
    Ok(BindOwners {
        source: Tree::open(Path::new("/"))?.user_ids(outside)?,
        target: (base.saturating_add(user), base.saturating_add(group)),
    })
}

/// Returns the configuration for the guest's networkd of the interface with addresses from Coracle.
fn guest_network_file(paths: &Paths, machine: &Machine, choice: &Choice) -> Option<String> {
    let Some(plan) = &choice.link else {
        let interface = choice.interfaces.iter().find_map(ExtraInterface::addressed)?;
        return Some(networkd::guest_interface_file(interface, &machine.network));
    };
    let served = paths.systemd("netif").is_dir();
    let dhcp = if served { networkd::Dhcp::Served } else { networkd::Dhcp::Absent };
    Some(networkd::guest_network_file(plan, dhcp))
}

/// Returns the host's name servers as the machine reaches them. `None` if the machine does not follow them.
fn name_servers(paths: &Paths, machine: &Machine, link: &LinkPlan) -> Option<resolv_conf::Resolver> {
    (wanted_resolv_conf(paths, machine) == ResolvConf::Auto)
        .then(|| resolv_conf::find(paths).unwrap_or_default().behind(Some(link.ipv4.host)))
}

/// Returns whether the payload is a program for 32 bit x86: its C libraries create sockets by socketcall(2).
fn needs_socketcall(machine: &Machine, tree: &Tree, init: Option<&Path>) -> bool {
    let named = match &machine.command.payload {
        Payload::Command { argv, .. } => plan::candidates(argv, &machine.command.environment),
        Payload::Boot { .. } => init.into_iter().map(Path::to_owned).collect(),
        Payload::Hold => Vec::new(),
    };
    let shell = PathBuf::from("/bin/sh");
    let architecture = named.iter().chain([&shell]).find_map(|program| tree.architecture(program));
    architecture == Some(plan::init::Architecture::Named("x86"))
}

/// Returns the handling of the guest's resolv.conf.
fn wanted_resolv_conf(paths: &Paths, machine: &Machine) -> ResolvConf {
    match (machine.network.resolv_conf, machine.contract) {
        (ResolvConf::Auto, Contract::Nspawn) => nspawn::automatic(paths, machine),
        (wanted, _) => wanted,
    }
}

/// Returns the change of the guest's resolv.conf. A missing file of the host is not an error. A host without
/// name servers, for example one that is booting, may have some later.
fn resolv_conf(
    paths: &Paths,
    machine: &Machine,
    resolver: Option<resolv_conf::Resolver>,
) -> Option<ResolvConfAction> {
    let (method, file) = match wanted_resolv_conf(paths, machine) {
        ResolvConf::Auto => {
            return resolver.map(|resolver| {
                let write = if resolver.servers.is_empty() {
                    ResolvConfAction::WriteIfMissing
                } else {
                    ResolvConfAction::Write
                };
                write(resolver.to_string())
            });
        }
        ResolvConf::Off => return None,
        ResolvConf::Delete => return Some(ResolvConfAction::Delete),
        ResolvConf::From(method, file) => (method, paths.join(file.path())),
    };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => {
            let keeps = "the guest keeps its resolv.conf";
            log::warn!("cannot read '{}': {error}: {keeps}", file.display());
            return None;
        }
    };
    Some(match method {
        ResolvMethod::Copy => ResolvConfAction::Copy(text),
        ResolvMethod::Replace => ResolvConfAction::Replace(text),
        ResolvMethod::Bind => ResolvConfAction::Bind(file),
    })
}

/// Returns the guest's hosts(5): the file of the root, or one that is bound over it if it cannot be written.
fn hosts_file(paths: &Paths, machine: &Machine, tree: &Tree) -> Option<HostsFile> {
    if machine.network.hosts == HostsMode::Off {
        return None;
    }
    let own_names = own_names(machine, tree);
    // Layers must not be written to beside the overlay.
    let file = machine.root.plain_directory().filter(|_| !machine.root.read_only).map(Hosts::of_tree);
    if let Some(file) = file.filter(Hosts::is_writable) {
        return Some(HostsFile { own_names, file, bound: None });
    }
    // A file is bound over an existing file only.
    let text = tree.read_text("/etc/hosts")?;
    let state = paths.machine(&machine.name);
    Some(HostsFile { own_names, file: Hosts::bound(&state), bound: Some(text) })
}

/// Returns whether a tree has the name of the host, for example of the one that built it.
fn has_hosts_name(tree: &Tree) -> bool {
    hostname_of(tree).is_some_and(|name| name == rustix::system::uname().nodename().to_string_lossy())
}

/// Returns the name in the file /etc/hostname of a tree (hostname(5)).
fn hostname_of(tree: &Tree) -> Option<String> {
    let text = tree.read_text("/etc/hostname").unwrap_or_default();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let is_name = |name: &&str| {
        name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    line.filter(is_name).map(str::to_owned)
}

/// Returns the host names that the kernel may report inside: the machine's, and the one that its init sets
/// (hostname(5)).
fn own_names(machine: &Machine, tree: &Tree) -> Vec<String> {
    let mut names = vec![plan::identity::hostname(machine), machine.name.to_string()];
    names.extend(hostname_of(tree));
    let mut seen = Vec::new();
    names.retain(|name| {
        let is_new = !seen.contains(name);
        seen.push(name.clone());
        is_new
    });
    names
}

/// Returns the machine id: the root's own, or the definition's, or a constant one of this name on this host.
fn machine_id(machine: &Machine, tree: &Tree) -> Id128 {
    const KEYS: [u128; 2] =
        [0x83c1_5e0f_a2d7_4b66_9d18_f470_3be9_5a2c, 0x1be4_7d92_60f5_4c0e_b3a7_28d1_95c6_ef40];
    let own = || {
        let host = probe::host_id();
        let half = |key| siphash(key, &[host.as_bytes(), machine.name.as_str().as_bytes()]);
        let [high, low] = KEYS.map(half);
        Id128::of_random((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
    };
    tree.machine_id().or(machine.identity.uuid).unwrap_or_else(own)
}

/// Returns the variables about colors that this process has.
fn color_variables() -> Vec<(&'static str, String)> {
    ["COLORTERM", "NO_COLOR"].into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?))).collect()
}

fn on_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin()) && rustix::termios::isatty(rustix::stdio::stdout())
}
