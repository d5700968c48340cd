//! A machine's interfaces beside its link. Called by `launch` and `cleanup`. At the end of the machine,
//! interfaces borrowed from the host move back, and interfaces on top of the host's are deleted before the
//! next boot creates them again, even after a kill: so the machine's network namespace is kept mounted in its
//! state directory.

use crate::error::{Context, Error, Result};
use crate::host::runtime::runtime;
use crate::host::systemd::session::BusSession;
use crate::network::interfaces;
use crate::network::interfaces::ExtraInterface;
use crate::network::{resolved, zone};
use crate::paths::Paths;
use crate::state::record::Record;
use crate::sys::mount::{self, Depth};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;
use std::path::PathBuf;

/// Returns the path of the kept network namespace.
fn place(paths: &Paths, record: &Record) -> PathBuf {
    paths.machine(&record.name).join("network")
}

/// Creates the interfaces, or moves them into the machine. The record already names them.
///
/// # Errors
/// The first interface that cannot be created or moved.
pub(crate) fn connect(
    bus: &BusSession,
    paths: &Paths,
    record: &mut Record,
    network: BorrowedFd<'_>,
) -> Result<()> {
    // After a reboot: the interfaces are still in the namespace of the guest before.
    bring_back(paths, record)?;
    record.interfaces.iter_mut().for_each(ExtraInterface::forget_index);
    record.write(paths)?;
    if record.interfaces.iter().any(ExtraInterface::is_borrowed_from_host) {
        keep(paths, record, network)?;
    }
    // Held until the machine has a port of the bridge: the last machine to leave deletes a bridge without
    // ports.
    let is_port = record.interfaces.iter().any(ExtraInterface::is_plain_port_of_zone);
    let _held = is_port.then(|| zone::lock(paths)).transpose()?;
    for at in 0..record.interfaces.len() {
        let Some(interface) = record.interfaces.get_mut(at) else { continue };
        let ifindex = bus.block_on(interfaces::connect_interface(interface, network))?;
        if let Some(ifindex) = ifindex.filter(|_| !interface.is_plain()) {
            bus.block_on(resolved::disable_multicast_names(&bus.connection(), ifindex));
        }
        if ifindex.is_some() && interface.host_end() == record.host_interface.as_deref() {
            record.host_ifindex = ifindex;
        }
        // With its index inside: the guest may rename it.
        record.write(paths)?;
    }
    if record.firewall.is_none() {
        record.addresses = record.interfaces.iter().flat_map(ExtraInterface::addresses).collect();
        record.write(paths)?;
    }
    Ok(())
}

/// Mounts the network namespace, so that it outlives its processes.
fn keep(paths: &Paths, record: &Record, network: BorrowedFd<'_>) -> Result<()> {
    let place = place(paths, record);
    let keeping = || format!("cannot keep the network namespace at '{}'", place.display());
    std::fs::File::create(&place).context(keeping)?;
    let path = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&network));
    let from = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(keeping)?;
    let to = rustix::fs::open(&place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(keeping)?;
    let tree = mount::copy_tree(from.as_fd(), Depth::One).map_err(Error::from).context(keeping)?;
    mount::attach(tree.as_fd(), to.as_fd()).map_err(Error::from).context(keeping)
}

/// Deletes created interfaces, and moves borrowed ones back to the host. Missing ones are not an error.
///
/// # Errors
/// An interface that cannot be deleted or moved.
pub(crate) fn disconnect(paths: &Paths, record: &Record) -> Result<()> {
    if record.interfaces.is_empty() {
        return Ok(());
    }
    let removed = runtime()?.block_on(interfaces::delete_host_ends(&record.interfaces));
    removed.and(bring_back(paths, record))
}

fn bring_back(paths: &Paths, record: &Record) -> Result<()> {
    let place = place(paths, record);
    if !record.interfaces.iter().any(ExtraInterface::is_borrowed_from_host) || !place.exists() {
        return Ok(());
    }
    let network: OwnedFd =
        std::fs::File::open(&place).context(|| format!("cannot open '{}'", place.display()))?.into();
    // Without the mount, after a kill between creating the file and mounting, the namespace is still empty.
    let result = match rustix::fs::fstatfs(&network).map(|found| found.f_type) {
        Ok(libc::NSFS_MAGIC) => runtime()?.block_on(async {
            let deleted = interfaces::delete_from(&record.interfaces, network.as_fd()).await;
            deleted.and(interfaces::return_to_host(&record.interfaces, network.as_fd()).await)
        }),
        _ => Ok(()),
    };
    let _ = rustix::mount::unmount(&place, UnmountFlags::DETACH);
    let _ = std::fs::remove_file(&place);
    result
}
