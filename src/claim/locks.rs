//! Lock files of a machine's name, root and addresses, and the lock that serialises claims. Called by
//! `claim`, and by `cleanup` for the names of the files.

use super::{Choice, Undo, claimed_ids};
use crate::error::{Error, Result};
use crate::host::lock::{self, Held, Lock};
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::id_ranges;
use crate::state::record::Record;
use rustix::fd::OwnedFd;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Waits for the lock of claims: the holder reads the records of all machines, chooses, and writes its own.
///
/// # Errors
/// A process that holds the lock for long, or a signal that interrupts the start.
pub(crate) fn of_claims(paths: &Paths) -> Result<Held> {
    lock::wait_unless_interrupted(paths, "claims")
}

/// The time for the children of a killed supervisor to end: they hold its locks until then.
const ENDING: Duration = Duration::from_secs(2);

/// Locks the name of a machine, after undoing what an earlier run of the machine left.
pub(super) fn name(paths: &Paths, name: &Name, undo: Undo) -> Result<OwnedFd> {
    let file = paths.machine(name).join("lock");
    let held = take_name(paths, name, &file)?;
    if let Some(record) = Record::read(paths, name).unwrap_or_default() {
        log::info!("cleaning up after an earlier run of machine '{name}'");
        undo(paths, &record);
        drop(held);
        return Ok(take_name(paths, name, &file)?.descriptor);
    }
    Ok(held.descriptor)
}

fn take_name(paths: &Paths, name: &Name, file: &Path) -> Result<Lock> {
    let begun = Instant::now();
    loop {
        if let Some(lock) = lock::take(file)? {
            return Ok(lock);
        }
        let record = Record::read(paths, name).ok().flatten();
        if record.is_none_or(|record| record.is_alive()) || begun.elapsed() > ENDING {
            return Err(running(paths, name));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn running(paths: &Paths, name: &Name) -> Error {
    let record = Record::read(paths, name).ok().flatten();
    let supervisor =
        record.map_or_else(String::new, |record| format!(" (supervisor: process {})", record.supervisor));
    Error::new(format!("machine '{name}' is already running{supervisor}"))
        .with_hint(format!("stop it with 'coracle stop {name}', or choose another name for the new machine"))
}

/// Returns the file that is locked while a machine has this address on a link outside of zones.
pub(crate) fn address_file(paths: &Paths, address: Ipv4Addr) -> PathBuf {
    paths.systemd("nspawn/locks").join(format!("coracle-{address}"))
}

/// Returns the file that is locked while a root directory is in use, named for its device and inode: the same
/// as systemd-nspawn(1)'s.
fn root_file(paths: &Paths, (device, inode): (u64, u64)) -> PathBuf {
    paths.systemd("nspawn/locks").join(format!("inode-{device}:{inode}"))
}

/// A lock that is held while a machine runs.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The file, deleted with the lock.
    pub(super) file: PathBuf,
    resource: Resource,
}

#[derive(Debug)]
enum Resource {
    /// The range of user ids from this one on.
    Ids(u32),
    Address(Ipv4Addr),
    Root(PathBuf),
}

/// Returns the locks of a machine beside that of its name.
pub(super) fn wanted(
    paths: &Paths,
    machine: &Machine,
    root_identity: (u64, u64),
    choice: &Choice,
) -> Vec<Wanted> {
    let ids = claimed_ids::locked(machine, choice.ids.base)
        .map(|base| Wanted { file: id_ranges::lock_file(paths, base), resource: Resource::Ids(base) });
    let single = choice.link.as_ref().filter(|plan| plan.zone.is_none());
    let address = single
        .map(|plan| plan.ipv4.guest)
        .map(|address| Wanted { file: address_file(paths, address), resource: Resource::Address(address) });
    let directory = machine.root.directory.clone();
    let root = Wanted { file: root_file(paths, root_identity), resource: Resource::Root(directory) };
    ids.chain(address).chain([root]).collect()
}

impl Wanted {
    /// Takes the lock.
    pub(super) fn take(&self, paths: &Paths, name: &Name) -> Result<OwnedFd> {
        let lock = match &self.resource {
            Resource::Ids(base) => id_ranges::lock(paths, *base)?,
            Resource::Address(address) => lock::take(&self.file)?
                .ok_or_else(|| Error::new(format!("another program has locked address {address}")))?,
            Resource::Root(directory) => {
                lock::take(&self.file)?.ok_or_else(|| root_in_use(paths, name, directory))?
            }
        };
        Ok(lock.descriptor)
    }
}

/// Returns the error for a root in use, with the machine that uses it if it is one of Coracle.
fn root_in_use(paths: &Paths, name: &Name, directory: &Path) -> Error {
    let is_user = |record: &Record| record.name != *name && record.root == directory && record.is_alive();
    let user = Record::all(paths).into_iter().find(is_user);
    let user =
        user.map_or_else(|| "another program".to_owned(), |record| format!("machine '{}'", record.name));
    Error::new(format!("root directory '{}' is in use by {user}", directory.display()))
        .with_hint("stop it, or copy the tree: two systems on one root corrupt it")
}
