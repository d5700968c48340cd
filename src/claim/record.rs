//! The state record of a claim: the undo list, complete before the first thing on it is created. Called by
//! `claim`.

use super::Choice;
use super::locks::Wanted;
use crate::host::executable::Executable;
use crate::host::procfs::start_time;
use crate::image::throwaway;
use crate::machine::Machine;
use crate::machine::build::Build;
use crate::machine::build_cache::PackageCache;
use crate::machine::init::Personality;
use crate::machine::mounts::{
    LayerPath, Mount, MountKind, OverlayChanges, temporary_directory, work_directory,
};
use crate::machine::network::ResolvConf;
use crate::network::firewall::{Forwarding, Member, TrafficPolicy};
use crate::network::interfaces::ExtraInterface;
use crate::network::{networkd, resolv_conf, sysctl};
use crate::paths::Paths;
use crate::state::build::{BuildRecord, CacheRecord};
use crate::state::record::{Phase, Record, Syscalls};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the record of a machine as its definition and the choice decide it. A reboot continues the record
/// before it.
pub(super) fn of(
    paths: &Paths,
    machine: &Machine,
    choice: &Choice,
    locks: &[Wanted],
    before: Option<&Record>,
) -> Record {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let pid = std::process::id();
    let mut record = before.cloned().unwrap_or_else(|| Record::new(machine.name.clone()));
    record.phase = Phase::Starting;
    record.is_late = false;
    record.has_environment = !machine.command.environment.is_empty();
    record.waits_for = None;
    record.supervisor = pid;
    record.supervisor_start = start_time(pid).unwrap_or_default();
    // A reboot in place executes the same program again.
    if before.is_none() {
        record.program = Executable::current();
    }
    record.started = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    record.root = machine.root.top().to_owned();
    record.version = machine.root.is_trial.then(|| machine.root.path().to_owned());
    record.failed_version = None;
    if let Some(fallback) = &machine.root.fallback {
        record.fallback = Some(fallback.clone());
    }
    record.id_base = choice.ids.base;
    record.syscalls = Syscalls {
        allow: machine.security.syscalls_allow.clone(),
        deny: machine.security.syscalls_deny.clone(),
        socketcall: record.syscalls.socketcall,
        suppress_sync: machine.boot.suppress_sync,
        families: machine.security.address_families.clone(),
    };
    record.throwaway = match record.throwaway.take() {
        None if machine.has_temporary_directories() => Some(throwaway::choose(paths, machine.root.is_synced)),
        // Of a boot whose definition was another one too: cleanup removes it.
        kept => kept,
    };
    record.work_directories = work_directories(machine);
    record.mount_tunnel = machine.mount_tunnel().or(record.mount_tunnel);
    record.nesting = machine.security.nesting;
    record.no_new_privileges = machine.security.no_new_privileges;
    record.cpu_affinity.clone_from(&machine.resources.cpu_affinity);
    record.personality = machine.boot.personality.map(Personality::domain);
    record.unconfined = machine.openings().map(|opening| opening.word.to_owned()).collect();
    let recovered = record.build.take();
    record.build = machine.build.as_ref().map(|build| BuildRecord {
        base: build.base.clone(),
        user: build.user.name.clone(),
        is_exposed: build.is_exposed,
        is_synced: build.is_synced,
        is_interrupted: false,
        caller: build.user.caller,
        results: build.results.clone(),
        id_count: machine.id_count(),
        is_begun: recovered.as_ref().is_some_and(|before| before.is_begun),
        lower: Vec::new(),
        caches: record.throwaway.as_deref().map_or_else(Vec::new, |layer| caches(machine, build, layer)),
        files: recovered.map(|before| before.files).unwrap_or_default(),
    });
    record.owned_trees = machine.owned_trees().into_iter().map(Into::into).collect();
    network(paths, machine, choice, before, &mut record);
    files(paths, machine, choice, locks, &mut record);
    record
}

/// Returns the caches of packages of a build session, with the directories of its changes.
fn caches(machine: &Machine, build: &Build, layer: &Path) -> Vec<CacheRecord> {
    let of_mount = |(number, mount): (usize, &Mount)| {
        let MountKind::Overlay { lower, upper: OverlayChanges::Discarded, .. } = &mount.kind else {
            return None;
        };
        let is_lower = |cache: &&PackageCache| *lower == [LayerPath::Host(cache.directory.clone())];
        let cache = build.caches.iter().find(is_lower)?;
        Some(CacheRecord {
            manager: cache.manager,
            directory: cache.directory.clone(),
            changes: layer.join(temporary_directory(number)),
        })
    };
    machine.mounts.iter().enumerate().filter_map(of_mount).collect()
}

/// Returns the directories beside those of changes to overlays.
fn work_directories(machine: &Machine) -> Vec<PathBuf> {
    let upper = machine.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Overlay { upper: OverlayChanges::Directory(LayerPath::Host(upper)), .. } => Some(upper),
        _ => None,
    });
    upper.filter_map(|upper| Some(upper.with_file_name(work_directory(upper.file_name()?)))).collect()
}

fn network(paths: &Paths, machine: &Machine, choice: &Choice, before: Option<&Record>, record: &mut Record) {
    record.resolver = choice.link.is_some() && machine.network.resolv_conf == ResolvConf::Auto;
    if let Some(plan) = &choice.link {
        record.host_interface = Some(plan.host_interface.clone());
        let defined = Member::new(plan, &machine.network.ports)
            .with_on_demand(machine.network.on_demand.clone())
            .with_policy(TrafficPolicy::of(&machine.network))
            .with_resolver(loopback_resolver(paths, record))
            .with_filtered_bridges(!machine.network.ports.is_empty() && sysctl::filters_bridges());
        // A reboot changes the firewall's part when it creates the link.
        let is_same = |found: &Member| {
            found.interface() == defined.interface() && found.addresses() == defined.addresses()
        };
        let found = record.firewall.take().filter(is_same);
        record.firewall = Some(found.unwrap_or(defined));
        record.zone.clone_from(&plan.zone);
    }
    if before.is_none() {
        // The record of a reboot has the interfaces with their indices.
        record.interfaces.clone_from(&choice.interfaces);
        record.extras = choice.interfaces.iter().filter_map(ExtraInterface::extra).collect();
        if choice.link.is_none() {
            let is_port = choice.interfaces.iter().any(ExtraInterface::is_plain_port_of_zone);
            record.zone = machine.network.zone.clone().filter(|_| is_port);
            record.forwarding = Forwarding::new(&machine.network.ports);
        }
    } else {
        let defined = &choice.interfaces;
        record.interfaces.iter_mut().for_each(|interface| interface.use_addresses_of(defined));
    }
    if choice.link.is_none() {
        record.host_interface =
            choice.interfaces.iter().find_map(ExtraInterface::host_end).map(str::to_owned);
    }
}

/// Returns the host's resolver at a loopback address. `None` if the machine does not follow the host's name
/// servers.
pub(crate) fn loopback_resolver(paths: &Paths, record: &Record) -> Option<Ipv4Addr> {
    record.resolver.then(|| resolv_conf::find(paths)).flatten()?.at_loopback
}

/// Names every file of the machine outside of its own state directory.
fn files(paths: &Paths, machine: &Machine, choice: &Choice, locks: &[Wanted], record: &mut Record) {
    let is_single = choice.link.as_ref().is_some_and(|plan| plan.zone.is_none());
    let link = is_single.then(|| networkd::host_file(paths, &machine.name));
    for file in link.into_iter().chain(locks.iter().map(|lock| lock.file.clone())) {
        if !record.files.contains(&file) {
            record.files.push(file);
        }
    }
}
