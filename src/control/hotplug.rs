//! `device sync`: the USB devices of `security.hotplug` in running machines. Devices that were plugged in are added, those
//! that were unplugged are removed. Run by coracle-hotplug@.service at the start of such a machine and at events of
//! udev(7), which need not be complete or in order: each run compares all of them.

use super::defined;
use super::device::{self, DeviceRequest};
use crate::error::{Context, Error, Result};
use crate::host::{lock, usb};
use crate::machine::name::Name;
use crate::machine::security::Security;
use crate::paths::Paths;
use crate::state::record::Record;
use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The file in `/run/coracle` that exists while a running machine wants devices: without it, udev starts nothing.
const MARK: &str = ".hotplug";

/// Adds and removes devices of all running machines. An error of one device or machine does not affect the others.
///
/// # Errors
/// One for each device that cannot be added or removed.
pub(crate) fn sync(paths: &Paths) -> super::BatchResult {
    let _lock = lock::wait(paths, "hotplug").map_err(|error| vec![error])?;
    let records = Record::all(paths).into_iter().filter(Record::is_alive);
    let machines: Vec<(Name, Security)> = records
        .filter_map(|record| {
            let machine = defined(paths, &record.name).ok()?;
            Some((record.name, machine.security.clone()))
        })
        .collect();
    let mut errors: Vec<_> =
        machines.iter().flat_map(|(name, security)| sync_one(paths, name, security)).collect();
    let is_wanted = machines.iter().any(|(_, security)| !security.hotplug.is_empty());
    errors.extend(mark(paths, is_wanted).err());
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Creates or removes the file that udev looks for.
fn mark(paths: &Paths, is_wanted: bool) -> Result<()> {
    let file = paths.state().join(MARK);
    let done = if is_wanted { std::fs::write(&file, "") } else { std::fs::remove_file(&file) };
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("cannot write '{}'", file.display()))
        }
        _ => Ok(()),
    }
}

/// A device by its number (makedev(3)), and whether it is a block device.
type Number = (bool, u64);

fn number(node: &Path) -> Option<Number> {
    node.metadata().ok().map(|found| (found.file_type().is_block_device(), found.rdev()))
}

/// Adds and removes devices of a machine. Returns an error for each that cannot be, which does not affect the others.
fn sync_one(paths: &Paths, name: &Name, security: &Security) -> Vec<Error> {
    let plugged: BTreeSet<PathBuf> = security.hotplug.iter().flat_map(usb::nodes).collect();
    let known = match device::list(paths, name) {
        Ok(known) => known,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    // Those of the definition and of 'device add' are left alone.
    let mut present: BTreeSet<Number> = security.devices.iter().filter_map(|path| number(path)).collect();
    for known in known {
        let is_same = number(&known.device) == Some((known.block, known.number));
        // Another device may have the node by now.
        if !known.hotplug || plugged.contains(&known.device) && is_same {
            present.insert((known.block, known.number));
            continue;
        }
        match device::remove(paths, name, &known.path) {
            Ok(()) => log::info!("removed '{}' from machine '{name}'", known.path.display()),
            Err(error) => errors.push(error),
        }
    }
    for node in plugged.iter().filter(|node| number(node).is_none_or(|found| !present.contains(&found))) {
        let request = DeviceRequest { name, device: node, path: None, read_only: false, hotplug: true };
        match device::add(paths, &request) {
            Ok(()) => log::info!("added '{}' to machine '{name}'", node.display()),
            Err(error) => errors.push(error),
        }
    }
    errors
}
