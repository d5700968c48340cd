//! The last act: removes everything in the state record of a machine. Idempotent; continues after errors. Run
//! by the supervisor at its end, by the unit's `ExecStopPost=`, and by the next start.

use super::exposed_root;
use super::handover::SupervisorState;
use super::mount_tunnel;
use super::network::firewall;
use super::network::hosts_file::{self, ZoneChange};
use super::network::interfaces;
use super::package_cache;
use super::results;
use crate::claim;
use crate::error::{Error, Result};
use crate::host::cgroup_move::CgroupMove;
use crate::host::runtime::runtime;
use crate::host::systemd::{machined, units};
use crate::host::{cgroup, lock};
use crate::image::store::draft::Draft;
use crate::image::throwaway;
use crate::machine::credentials::JOURNAL_SOCKET;
use crate::machine::name::Name;
use crate::machine::network::Zone;
use crate::machine::unit_name;
use crate::network::firewall::{Member, Nfnetlink, Part};
use crate::network::interfaces::ExtraInterface;
use crate::network::veth::Removed;
use crate::network::{networkd, veth, zone};
use crate::paths::Paths;
use crate::state::build::BuildRecord;
use crate::state::kept_sessions;
use crate::state::record::Record;
use crate::sys::directory::names;
use rustix::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// The time until a link is deleted by name that the kernel has not deleted with its network namespace.
const DELETING: Duration = Duration::from_millis(40);

/// Cleans up after a machine without a supervisor, or supervised by this process. A machine without a record
/// is no error.
///
/// # Errors
/// The machine is running.
pub(crate) fn after(paths: &Paths, name: &Name) -> Result<()> {
    match Record::read(paths, name) {
        Ok(Some(record)) if record.is_alive() && record.supervisor != std::process::id() => {
            return Err(Error::new(format!(
                "machine '{name}' runs (supervisor: process {})",
                record.supervisor
            ))
            .with_hint(format!("stop it first: coracle stop {name}")));
        }
        Ok(Some(record)) => drop(undo_by(paths, &record, Changes::Removed, |_| ())),
        unreadable => {
            if lock::is_taken(&paths.machine(name).join("lock")) {
                return Err(Error::new(format!("machine '{name}' is starting"))
                    .with_hint(format!("wait until it runs, and stop it: coracle stop {name}")));
            }
            // Without a record, the start was killed before it was written: only the directory exists.
            if let Err(error) = unreadable {
                log::warn!("{error}, removing the state directory");
            }
            // It may be a session: its changes are not removed through the mount of its root.
            note(exposed_root::conceal(&paths.session_root(name)));
            remove_state(&paths.machine(name));
        }
    }
    lock::delete_stale(paths);
    Ok(())
}

/// Cleans up after killed supervisors that no unit cleans up after: those of the foreground. A machine that
/// is starting holds the lock of its name, and is left alone. For starts that need what such machines hold:
/// an interface of the host, or space for throw-away layers, whose machines have names that never come again.
/// Build sessions with changes on the disk wait for their caller.
pub(crate) fn after_killed_runs(paths: &Paths) {
    let has_own_unit = |unit: &str| unit_name::machine_of(unit) != unit;
    let is_left = |record: &Record| {
        !record.is_alive() && !record.unit.as_deref().is_some_and(has_own_unit) && !record.keeps_changes()
    };
    for record in Record::all(paths).iter().filter(|record| is_left(record)) {
        let lock = lock::take(&paths.machine(&record.name).join("lock"));
        if !matches!(lock, Ok(Some(_))) {
            continue;
        }
        // It may have been cleaned up, or started again, before the lock was taken.
        if let Ok(Some(record)) = Record::read(paths, &record.name)
            && is_left(&record)
        {
            log::info!("cleaning up after machine '{}', whose supervisor was killed", record.name);
            undo(paths, &record);
        }
    }
}

/// Cleans up after the ended machine of this supervisor, which has closed the network namespace. The kernel
/// deletes the links with it, without a request that waits for grace periods of RCU. Closing the packet
/// socket waits for one, together with the transaction of the firewall. The discarded changes of the machine are
/// removed with the returned draft. Those of a build session that outlasts a reboot stay, unless its caller ends it.
pub(crate) fn after_end(state: &SupervisorState, packet_socket: Option<OwnedFd>) -> Option<Draft> {
    let mut cgroup_move = None;
    let paths = Paths::below(&state.paths_root);
    let keeps = |build: &BuildRecord| build.is_synced && build.is_interrupted;
    let changes = if state.record.keeps_changes() && state.record.build.as_ref().is_some_and(keeps) {
        Changes::Kept
    } else {
        Changes::Removed
    };
    let trash = undo_by(&paths, &state.record, changes, |record| {
        // Now the guest's cgroup is deleted, which would wait for the move.
        cgroup_move = state.is_launched().then(CgroupMove::begin).flatten();
        drop(packet_socket);
        // The state directory keeps the namespace of an interface of the host.
        if !record.interfaces.iter().any(ExtraInterface::is_borrowed_from_host) {
            veth::wait_until_deleted(&record.host_ends(), DELETING);
        }
    });
    cgroup_move.into_iter().for_each(CgroupMove::end);
    trash
}

/// Undoes everything a record names. Of a build session that can be recovered, the changes and the record stay.
pub(crate) fn undo(paths: &Paths, record: &Record) {
    let changes = if record.keeps_changes() { Changes::Kept } else { Changes::Removed };
    drop(undo_by(paths, record, changes, |_| ()));
}

/// The treatment of the changes of a machine that discards them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changes {
    /// They are removed, and the machine is forgotten.
    Removed,
    /// They stay with the record.
    Kept,
}

/// Returns the discarded changes: they have lost their name before they are removed, and the time of an end does
/// not depend on them.
fn undo_by(
    paths: &Paths,
    record: &Record,
    changes: Changes,
    before_links: impl FnOnce(&Record),
) -> Option<Draft> {
    // Closed at the end.
    let socket = Nfnetlink::open();
    // The processes first: they hold everything else.
    let gone = if record.cgroup_is_ours { record.cgroup.clone() } else { record.payload_cgroup() };
    if let Some(gone) = gone {
        note(cgroup::remove(&gone));
    }
    note(stop_scope(record));
    if record.build.as_ref().is_some_and(|build| build.is_exposed) {
        note(exposed_root::conceal(&paths.session_root(&record.name)));
    }
    results::give(record);
    if changes == Changes::Removed {
        package_cache::merge(record);
    }
    // Addresses locked by another machine never belonged to this one: its elements in the firewall are those
    // of the other machine.
    let address = |member: &Member| claim::address_file(paths, member.addresses().0);
    let is_its_own = |member: &&Member| member.zone().is_some() || !lock::is_taken(&address(member));
    let part = Part { member: record.firewall.as_ref().filter(is_its_own), ..record.part() };
    note(firewall::leave(&socket, paths, record, part));
    before_links(record);
    note(outside(record));
    note(interfaces::disconnect(paths, record));
    if let Some(zone) = &record.zone {
        note(leave(paths, zone, record));
    }
    hosts_file::clear(record);
    // A held lock belongs to another machine, which shares it or never let this one have it.
    for file in &record.files {
        if let Err(error) = lock::delete_unless_taken(file) {
            log::warn!("cannot remove '{}': {error}, ignoring", file.display());
        }
    }
    note(record.mount_tunnel.as_deref().map_or(Ok(()), mount_tunnel::remove));
    for directory in &record.work_directories {
        note(throwaway::remove(directory));
    }
    if changes == Changes::Kept {
        // Its supervisor has ended, or is this process, which does not end it again.
        let dead = Record { supervisor: 0, leader: None, files: Vec::new(), ..record.clone() };
        note(dead.write(paths));
        return None;
    }
    if record.build.is_some() {
        // Before the record: a session with a file and without a record is one of an earlier boot.
        note(kept_sessions::forget(paths, &record.name));
    }
    let discarded = record.throwaway.as_deref().map_or(Ok(None), |layer| throwaway::discard(paths, layer));
    remove_state(&paths.machine(&record.name));
    discarded.unwrap_or_else(|error| {
        log::warn!("{error}, ignoring");
        None
    })
}

/// Removes the state directory last, with the record as its last file: after a kill, the next cleanup begins
/// again.
fn remove_state(directory: &Path) {
    const NAMES: [&str; 21] = [
        "root",
        "journal",
        "hosts",
        "resolver",
        "definition.json",
        "control",
        "history",
        ".idle.json",
        "idle.json",
        ".health.json",
        ".devices.json",
        "devices.json",
        "health.json",
        "session.json",
        ".environment.json",
        "environment.json",
        ".binds.json",
        "binds.json",
        ".state.json",
        "state.json",
        "lock",
    ];
    let present = names(directory).unwrap_or_default();
    if present.iter().any(|name| name == "journal") {
        // The socket of the receiver of its journal, in a directory of its own that is mounted in the machine.
        let _ = std::fs::remove_file(directory.join("journal").join(JOURNAL_SOCKET));
    }
    for name in NAMES.into_iter().filter(|name| present.iter().any(|present| present == name)) {
        let path = directory.join(name);
        let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path));
    }
    let _ = std::fs::remove_dir(directory);
}

/// Stops the empty scope of a killed run. This process has been in its own scope, which ends with it.
fn stop_scope(record: &Record) -> Result<()> {
    let scopes = unit_name::scopes(&record.name);
    let Some(scope) = record.unit.as_ref().filter(|unit| scopes.contains(unit)) else { return Ok(()) };
    if record.supervisor == std::process::id() || !units::is_running() {
        return Ok(());
    }
    runtime()?.block_on(units::stop_empty_scope(scope))
}

/// Removes a machine from its previous network, before it joins another one.
pub(super) fn leave_network(paths: &Paths, record: &Record) {
    note(firewall::leave(&Nfnetlink::open(), paths, record, record.part()));
    if let Some(interface) = &record.host_interface {
        note(runtime().and_then(|runtime| runtime.block_on(veth::remove(interface))));
    }
    if let Some(zone) = &record.zone {
        note(leave(paths, zone, record));
    }
}

/// Removes a machine from a zone. The bridge is deleted with the last machine; the next machine creates it
/// again.
fn leave(paths: &Paths, zone: &Zone, record: &Record) -> Result<()> {
    let _held = zone::lock(paths)?;
    hosts_file::update_zone(paths, zone, record, ZoneChange::Leaves);
    runtime()?.block_on(async {
        if veth::remove_if_empty(&zone.bridge()).await? == Removed::Gone
            && std::fs::remove_file(zone::network_file(paths, zone)).is_ok()
        {
            networkd::reload().await;
        }
        Ok(())
    })
}

/// Removes the machine's link and its registration with machined, if it has them.
fn outside(record: &Record) -> Result<()> {
    let interface = record.host_interface.as_deref().filter(|name| veth::exists(name));
    let is_registered = record.registered || record.unit.as_deref().is_some_and(machined::knows);
    if interface.is_none() && !is_registered {
        return Ok(());
    }
    runtime()?.block_on(async {
        if let Some(interface) = interface {
            note(veth::remove(interface).await);
        }
        if is_registered {
            note(machined::unregister(&record.name, record.unit.as_deref()).await);
        }
    });
    Ok(())
}

fn note(result: Result<()>) {
    if let Err(error) = result {
        log::warn!("{error}, ignoring");
    }
}
