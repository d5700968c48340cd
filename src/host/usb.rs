//! USB devices of the host, by their vendor, product and serial number in sysfs. Called by `control`.

use crate::error::{Error, Result};
use crate::machine::usb_device::UsbDevice;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The devices of all buses.
const DEVICES: &str = "/sys/bus/usb/devices";
/// The greatest depth of a node below its device.
const DEPTH: usize = 12;

/// Returns the node of a device.
///
/// # Errors
/// No such device, or several of them.
pub(crate) fn node(wanted: &UsbDevice) -> Result<PathBuf> {
    let mut found = find(Path::new(DEVICES), wanted);
    match (found.pop(), found.len()) {
        (Some(device), 0) => field(&device, "uevent").as_deref().and_then(node_of).ok_or_else(|| {
            Error::new(format!("the USB device '{wanted}' has no node"))
                .with_hint("list the devices with lsusb(8)")
        }),
        (Some(_), more) => Err(Error::new(format!("there are {} USB devices '{wanted}'", more + 1))
            .with_hint("write usb:VENDOR:PRODUCT:SERIAL, or the path of one below /dev/bus/usb")),
        (None, _) => Err(Error::new(format!("there is no USB device '{wanted}'"))
            .with_hint("list the devices with lsusb(8)")),
    }
}

/// Returns the nodes of all such devices and of their functions, for example of a disk and its partitions.
pub(crate) fn nodes(wanted: &UsbDevice) -> BTreeSet<PathBuf> {
    let mut nodes = BTreeSet::new();
    find(Path::new(DEVICES), wanted).iter().for_each(|device| collect(device, DEPTH, &mut nodes));
    nodes
}

/// Returns the directories of such devices.
fn find(devices: &Path, wanted: &UsbDevice) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(devices).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_it = |device: &PathBuf| {
        let is = |name: &str, value: &str| {
            field(device, name).is_some_and(|text| text.eq_ignore_ascii_case(value))
        };
        is("idVendor", &wanted.vendor)
            && is("idProduct", &wanted.product)
            && wanted.serial.as_ref().is_none_or(|serial| field(device, "serial").as_ref() == Some(serial))
    };
    entries.filter(is_it).collect()
}

/// Collects the nodes in a directory of sysfs and below it, without those of other USB devices, for example behind a
/// hub.
fn collect(directory: &Path, depth: usize, nodes: &mut BTreeSet<PathBuf>) {
    if directory.join("dev").exists() {
        nodes.extend(field(directory, "uevent").as_deref().and_then(node_of));
    }
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for below in directories.map(|entry| entry.path()).filter(|below| !below.join("idVendor").exists()) {
        if depth > 0 {
            collect(&below, depth - 1, nodes);
        }
    }
}

/// Returns the node of a device by its `uevent`.
fn node_of(uevent: &str) -> Option<PathBuf> {
    let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(Path::new("/dev").join(name.trim_start_matches("/dev/")))
}

fn field(device: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(device.join(name)).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plug(devices: &Path, name: &str, fields: &[(&str, &str)]) {
        std::fs::create_dir_all(devices.join(name)).unwrap();
        for (field, value) in fields {
            std::fs::write(devices.join(name).join(field), format!("{value}\n")).unwrap();
        }
    }

    #[test]
    fn devices_are_found_by_their_ids_with_their_nodes() {
        let root = tempfile::tempdir().unwrap();
        let ids = [("idVendor", "046d"), ("idProduct", "c52b"), ("dev", "189:1")];
        let devices = root.path();
        let first = [("serial", "A:1"), ("uevent", "MAJOR=189\nDEVNAME=bus/usb/003/012")];
        plug(devices, "3-1", &[&ids[..], &first].concat());
        let disk = [("dev", "8:0"), ("uevent", "DEVNAME=sda\nDEVTYPE=disk")];
        plug(devices, "3-1/3-1:1.0/host6/target6:0:0/6:0:0:0/block/sda", &disk);
        plug(devices, "3-1/3-1.1", &[("idVendor", "0000"), ("dev", "189:9"), ("uevent", "DEVNAME=other")]);
        plug(devices, "3-1:1.0", &[("bInterfaceClass", "03")]);
        let wanted = |text: &str| UsbDevice::parse(text).unwrap();
        let found = |text: &str| find(devices, &wanted(text));
        assert_eq!(found("usb:046D:c52b"), [devices.join("3-1")]);
        plug(devices, "3-2", &[&ids[..], &[("serial", "B"), ("uevent", "DEVNAME=bus/usb/003/013")]].concat());
        assert_eq!(found("usb:046d:c52b").len(), 2);
        assert_eq!(found("usb:046d:c52b:A:1"), [devices.join("3-1")]);
        assert!(found("usb:046d:c52b:C").is_empty() && found("usb:046d:0000").is_empty());
        let mut nodes = BTreeSet::new();
        collect(&devices.join("3-1"), DEPTH, &mut nodes);
        assert_eq!(nodes, ["/dev/bus/usb/003/012", "/dev/sda"].map(PathBuf::from).into());
    }
}
