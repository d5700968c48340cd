//! Taking a machine's name, root and ids, before anything else happens.

use super::cleanup;
use crate::error::{Error, Kind, Result};
use crate::host::lock::{self, Lock};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Refuses a machine that runs, before anything is looked at or touched for it.
///
/// # Errors
/// A machine of this name that runs, with its supervisor.
pub fn refuse_running(paths: &Paths, name: &Name) -> Result<()> {
    match Record::read(paths, name) {
        Ok(Some(record)) if record.is_alive() => Err(runs(name, Some(record.supervisor))),
        _ => Ok(()),
    }
}

/// Refuses to work in a chroot(2): who joins a mount namespace, the machine as well as its supervisor, gets the root of the
/// namespace (setns(2)). Where that call is refused, no machine can be created either.
///
/// # Errors
/// A chroot, or missing rights.
pub fn refuse_chroot() -> Result<()> {
    match crate::sys::mount::is_chroot() {
        Ok(true) => Err(Error::new("this process runs in a chroot, which a machine could leave").with_hint(
            "run coracle outside of the chroot, or make the directory the root of a mount namespace (pivot_root(8))",
        )),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Error::from(error)
            .context("cannot join mount namespaces, which creating a machine requires")
            .with_hint("a container needs CAP_SYS_ADMIN and no system-call filter for that (--privileged)")),
        _ => Ok(()),
    }
}

fn runs(name: &Name, supervisor: Option<u32>) -> Error {
    let who = supervisor.map_or_else(String::new, |pid| format!(" (supervisor: process {pid})"));
    Error::new(format!("machine '{name}' runs already{who}"))
        .with_hint(format!("stop it with 'coracle stop {name}', or give this one another name"))
}

/// Takes the name. What an earlier run of the same machine left over is cleaned up first.
///
/// # Errors
/// A machine of this name that runs, with its supervisor.
pub fn name(paths: &Paths, name: &Name) -> Result<Lock> {
    let file = paths.machine(name).join("lock");
    let taken = |lock: Option<Lock>| {
        let who = || Record::read(paths, name).ok().flatten().map(|record| record.supervisor);
        lock.ok_or_else(|| runs(name, who()))
    };
    let lock = taken(lock::take(&file)?)?;
    if let Some(record) = Record::read(paths, name).unwrap_or_default() {
        log::info!("cleaning up after an earlier run of machine '{name}'");
        cleanup::undo(paths, &record);
        drop(lock);
        return taken(lock::take(&file)?);
    }
    Ok(lock)
}

/// The file that is locked while a machine has this address on a link of its own, with all that goes with it.
pub fn address_file(paths: &Paths, address: Ipv4Addr) -> PathBuf {
    paths.systemd("nspawn/locks").join(format!("coracle-{address}"))
}

/// Takes the addresses of a link.
///
/// # Errors
/// Another machine that has just taken them, of kind [`Kind::Contended`].
pub fn address(paths: &Paths, address: Ipv4Addr) -> Result<Lock> {
    lock::take(&address_file(paths, address))?.ok_or_else(|| {
        Error::new(format!("another machine has taken {address} meanwhile")).with_kind(Kind::Contended)
    })
}

/// The file that is locked while a root directory is in use, by what it is, device and inode:
/// systemd-nspawn(1)'s.
pub fn root_file(paths: &Paths, (device, inode): (u64, u64)) -> PathBuf {
    paths.systemd("nspawn/locks").join(format!("inode-{device}:{inode}"))
}

/// Takes a root directory.
///
/// # Errors
/// A root in use, with the machine that uses it where it is ours.
pub fn root(paths: &Paths, name: &Name, directory: &Path, identity: (u64, u64)) -> Result<Lock> {
    lock::take(&root_file(paths, identity))?.ok_or_else(|| {
        let is_it =
            |record: &Record| record.name != name.as_str() && record.root == directory && record.is_alive();
        let user = Record::all(paths).into_iter().find(is_it);
        let user =
            user.map_or_else(|| "another program".to_owned(), |record| format!("machine '{}'", record.name));
        Error::new(format!("root directory '{}' is in use by {user}", directory.display()))
            .with_hint("two systems on one root destroy it; stop that one, or copy the tree")
    })
}
