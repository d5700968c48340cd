//! `device sync`: the USB devices of `security.hotplug` in running machines. Devices that were plugged in are added, those
//! that were unplugged are removed. Run by coracle-hotplug@.service at the start of such a machine and at events of
//! udev(7), which need not be complete or in order: each run compares all of them.

use super::defined;
use super::device::{self, DeviceRequest};
use crate::error::{Context, Result};
use crate::host::{lock, usb};
use crate::machine::name::Name;
use crate::machine::usb_device::UsbDevice;
use crate::paths::Paths;
use crate::state::record::Record;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The file in `/run/coracle` that exists while a running machine wants devices: without it, udev starts nothing.
const MARK: &str = ".hotplug";

/// Adds and removes devices of all running machines. An error of one machine does not affect the others.
///
/// # Errors
/// One per machine whose devices are not those that are plugged in.
pub(crate) fn sync(paths: &Paths) -> super::BatchResult {
    let _lock = lock::wait(paths, "hotplug").map_err(|error| vec![error])?;
    let records = Record::all(paths).into_iter().filter(Record::is_alive);
    let machines: Vec<(Name, Vec<UsbDevice>)> = records
        .filter_map(|record| {
            let machine = defined(paths, &record.name).ok()?;
            Some((record.name, machine.security.hotplug.clone()))
        })
        .collect();
    let errors = machines.iter().filter_map(|(name, wanted)| sync_one(paths, name, wanted).err());
    let mut errors: Vec<_> = errors.collect();
    let is_wanted = machines.iter().any(|(_, wanted)| !wanted.is_empty());
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

/// Adds and removes devices of a machine.
fn sync_one(paths: &Paths, name: &Name, wanted: &[UsbDevice]) -> Result<()> {
    let plugged: BTreeSet<PathBuf> = wanted.iter().flat_map(usb::nodes).collect();
    // Another device may have the node by now.
    let number = |node: &PathBuf| node.metadata().ok().map(|found| found.rdev());
    let mut added = BTreeSet::new();
    for known in device::list(paths, name)?.into_iter().filter(|known| known.hotplug) {
        if plugged.contains(&known.device) && number(&known.device) == Some(known.number) {
            added.insert(known.device);
        } else {
            device::remove(paths, name, &known.path)?;
            log::info!("removed '{}' from machine '{name}'", known.path.display());
        }
    }
    for node in plugged.difference(&added) {
        let request = DeviceRequest { name, device: node, path: None, read_only: false, hotplug: true };
        device::add(paths, &request)?;
        log::info!("added '{}' to machine '{name}'", node.display());
    }
    Ok(())
}
