//! Lock files of a machine's name, image and addresses, and the lock that serialises claims. Called by
//! `claim`, and by `cleanup` for the names of the files.

use super::{Choice, Undo, claimed_ids};
use crate::error::{Context, Error, Result};
use crate::host::lock::{self, Held, Lock};
use crate::image::locks::{self as image_locks, ImageLock};
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
    // Usually missing: an attempt to open the file would fail first.
    let _ = std::fs::create_dir(paths.machine(name));
    let held = take_name(paths, name, &file)?;
    if let Some(record) = Record::read(paths, name).unwrap_or_default() {
        if record.keeps_changes() {
            return Err(Error::new(format!("'{name}' is the name of a dead build session")).with_hint(format!(
                "recover it with 'coracle build recover {name}', or end it with 'coracle build end {name}'"
            )));
        }
        log::info!("cleaning up after an earlier run of machine '{name}'");
        undo(paths, &record);
        drop(held);
        return Ok(take_name(paths, name, &file)?.descriptor);
    }
    Ok(held.descriptor)
}

/// Locks the name of a dead build session. Returns its record too.
pub(super) fn name_of_dead(paths: &Paths, name: &Name) -> Result<(OwnedFd, Record)> {
    let held = take_name(paths, name, &paths.machine(name).join("lock"))?;
    // It may have been recovered or ended before the lock was taken.
    let dead = Record::read(paths, name)?.filter(|record| record.keeps_changes() && !record.is_alive());
    let record = dead.ok_or_else(|| Error::new(format!("session '{name}' is not dead any more")))?;
    Ok((held.descriptor, record))
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

/// Refuses the name of a running machine, without a claim.
///
/// # Errors
/// The machine is running.
pub(crate) fn refuse_running(paths: &Paths, name: &Name) -> Result<()> {
    let is_alive = Record::read(paths, name)?.is_some_and(|record| record.is_alive());
    if is_alive { Err(running(paths, name)) } else { Ok(()) }
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
    Image(ImageLock),
}

/// Returns the locks of a machine beside that of its name.
///
/// # Errors
/// A missing root.
pub(super) fn wanted(paths: &Paths, machine: &Machine, choice: &Choice) -> Result<Vec<Wanted>> {
    let ids = claimed_ids::locked(machine, choice.ids.base)
        .map(|base| Wanted { file: id_ranges::lock_file(paths, base), resource: Resource::Ids(base) });
    let single = choice.link.as_ref().filter(|plan| plan.zone.is_none());
    let address = single
        .map(|plan| plan.ipv4.guest)
        .map(|address| Wanted { file: address_file(paths, address), resource: Resource::Address(address) });
    let image = if machine.switches.lock { image_locks::of_root(paths, machine)? } else { Vec::new() };
    let image =
        image.into_iter().map(|lock| Wanted { file: lock.file.clone(), resource: Resource::Image(lock) });
    Ok(ids.chain(address).chain(image).collect())
}

impl Wanted {
    /// Takes the lock. `None` if the machine does without it.
    pub(super) fn take(&self, paths: &Paths, name: &Name) -> Result<Option<OwnedFd>> {
        let lock = match &self.resource {
            Resource::Ids(base) => Some(id_ranges::lock(paths, *base)?),
            Resource::Address(address) => Some(
                lock::take(&self.file)?
                    .ok_or_else(|| Error::new(format!("another program has locked address {address}")))?,
            ),
            Resource::Image(lock) => lock.take(|file| user_of(paths, name, file))?,
        };
        Ok(lock.map(|lock| lock.descriptor))
    }

    /// Changes the mode of a lock that a reboot keeps, if the definition has changed it.
    pub(super) fn renew(&self, paths: &Paths, name: &Name, locks: &[OwnedFd]) -> Result<()> {
        let Resource::Image(lock) = &self.resource else { return Ok(()) };
        let Ok(file) = rustix::fs::stat(&self.file) else { return Ok(()) };
        let is_its = |descriptor: &&OwnedFd| {
            rustix::fs::fstat(descriptor)
                .is_ok_and(|found| (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino))
        };
        let Some(held) = locks.iter().find(is_its) else { return Ok(()) };
        let doing = || format!("cannot lock '{}'", self.file.display());
        let is_renewed = lock::convert(held, lock.mode).context(doing)?;
        if is_renewed { Ok(()) } else { Err(lock.in_use(user_of(paths, name, &self.file))) }
    }
}

/// Returns the other running machine of Coracle that uses a lock file.
fn user_of(paths: &Paths, name: &Name, file: &Path) -> Option<String> {
    let is_user = |record: &Record| {
        record.name != *name && record.files.iter().any(|own| own == file) && record.is_alive()
    };
    Record::all(paths).into_iter().find(is_user).map(|record| format!("machine '{}'", record.name))
}
