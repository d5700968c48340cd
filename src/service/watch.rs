//! Keeps the objects of machines as the files are: records below `/run/coracle`, definitions and images. While
//! the service runs it watches them by inotify(7), and changes become signals, at most one per machine in a
//! tenth of a second.

use super::calls::machine_path;
use super::machine::Machine;
use super::snapshot::Snapshot;
use super::{Service, lock};
use crate::config;
use crate::error::{Context, Result};
use crate::host::systemd::bus;
use crate::machine::name::Name;
use crate::state::changes::{COLLECTED, Changes};
use crate::state::record::Record;
use rustix::fd::AsFd;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use tokio::net::unix::pipe::Receiver;
use zbus::Variant;

/// Watches until the service ends.
pub(super) async fn run(service: Arc<Service>) {
    if let Err(error) = watch(&service).await {
        log::warn!("cannot watch the machines: {error}");
    }
}

async fn watch(service: &Arc<Service>) -> Result<()> {
    let waiting = || "cannot wait for changes";
    let changes = Changes::new()?;
    let descriptor = rustix::io::fcntl_dupfd_cloexec(changes.as_fd(), 3).context(waiting)?;
    // It reads from any descriptor that poll(2) waits for.
    let events = Receiver::from_owned_fd_unchecked(descriptor).context(waiting)?;
    loop {
        changes.renew(&service.paths);
        // A directory that is being replaced must not end the signals about all others.
        if let Err(error) = sync(service).await {
            log::warn!("{error}, ignoring");
        }
        events.readable().await.context(waiting)?;
        tokio::time::sleep(COLLECTED).await;
        // Until it would block, which clears the readiness.
        while events.try_read(&mut [0; 4096]).is_ok_and(|length| length > 0) {}
    }
}

/// Adds, changes and removes objects.
///
/// # Errors
/// A directory of definitions cannot be read, or the bus refuses a signal.
pub(super) async fn sync(service: &Arc<Service>) -> Result<()> {
    let _syncing = service.syncing.lock().await;
    let mut names: BTreeSet<Name> = config::names(&service.paths)?.into_iter().collect();
    names.extend(Record::all(&service.paths).into_iter().map(|record| record.name));
    let server = service.connection()?.object_server();
    let known: Vec<Name> = lock(&service.machines).keys().cloned().collect();
    for name in known.iter().filter(|name| !names.contains(name)) {
        lock(&service.machines).remove(name);
        let removed = server.remove::<Machine, _>(machine_path(name)?).await;
        removed.map_err(bus::failure)?;
    }
    for name in names {
        let now = Snapshot::read(&service.paths, &name);
        let shown = lock(&service.machines).get(&name).cloned();
        match shown {
            Some(shown) => change(service, &name, &shown, now).await?,
            None => {
                let shown = Arc::new(Mutex::new(now));
                lock(&service.machines).insert(name.clone(), Arc::clone(&shown));
                let path = machine_path(&name)?;
                let object = Machine { service: Arc::clone(service), name, shown };
                server.at(path, object).await.map_err(bus::failure)?;
            }
        }
    }
    Ok(())
}

/// Shows the new state of a machine, and signals the changed properties together.
async fn change(service: &Service, name: &Name, shown: &Mutex<Snapshot>, now: Snapshot) -> Result<()> {
    let before = std::mem::replace(&mut *lock(shown), now.clone());
    let (before, after) = (values(&before), values(&now));
    let changed: HashMap<&str, &Variant<'_>> = after
        .iter()
        .zip(&before)
        .filter(|(new, old)| new != old)
        .map(|((name, value), _)| (*name, value))
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let none: [&str; 0] = [];
    let body = ("io.coracle1.Machine", changed, &none[..]);
    let (interface, member) = ("org.freedesktop.DBus.Properties", "PropertiesChanged");
    let path = machine_path(name)?;
    let sent = service.connection()?.emit_signal(None::<&str>, path, interface, member, &body).await;
    sent.map_err(bus::failure)
}

/// Returns the properties that change.
fn values(shown: &Snapshot) -> [(&'static str, Variant<'_>); 14] {
    [
        ("State", shown.state.as_str().into()),
        ("Init", shown.init.as_str().into()),
        ("Unit", shown.unit.as_str().into()),
        ("Leader", shown.leader.into()),
        ("LeaderPIDFDId", shown.leader_pidfd_id.into()),
        ("Addresses", shown.addresses.clone().into()),
        ("HostInterface", shown.host_interface.as_str().into()),
        ("Zone", shown.zone.as_str().into()),
        ("Ports", shown.ports.clone().into()),
        ("Started", shown.started.into()),
        ("Defined", shown.defined.into()),
        ("Root", shown.root.as_str().into()),
        ("Unconfined", shown.unconfined.clone().into()),
        ("Waits", shown.waits.as_str().into()),
    ]
}
