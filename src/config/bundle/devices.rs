//! `linux.devices` of a bundle: nodes that the machine gets. Called by `settings`.

use super::document::BundleDevice;
use super::layer_builder::LayerBuilder;
use crate::config::security::Node;
use crate::config::unit::Property;
use crate::config::values::{RawValue, Value, quoted};
use crate::error::{Error, Result};
use crate::machine::security::{DeviceNode, NodeKind};
use std::path::{Path, PathBuf};

/// Character devices that every machine has, or cannot have: null, zero, full, random, urandom, tty, console,
/// ptmx, tun and fuse (`admin-guide/devices.txt`).
const IMPLICIT: [(u32, u32); 10] =
    [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (10, 200), (10, 229)];

/// The bits of a number of a device (`linux/kdev_t.h`).
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// Sets the nodes.
pub(super) fn read(builder: &mut LayerBuilder, devices: &[BundleDevice<'_>]) {
    for (at, device) in devices.iter().enumerate() {
        let pointer = format!("/linux/devices/{at}");
        let Some(Some(node)) = builder.check(&pointer, node(device)) else { continue };
        let origin = builder.origin(&pointer);
        // Coracle creates the node in the cgroup of the machine. Its use has rules of its own.
        if let Some(number) = path_of(node.kind) {
            let property = Property(format!("DeviceAllow={number} m"));
            builder.layer.unit.properties.push(property, origin.clone());
        }
        builder.layer.security.nodes.push(Node(node), origin);
    }
}

/// Returns the path of a device by its number, as in systemd.resource-control(5). `None` for a pipe.
fn path_of(kind: NodeKind) -> Option<String> {
    match kind {
        NodeKind::Character { major, minor } => Some(format!("/dev/char/{major}:{minor}")),
        NodeKind::Block { major, minor } => Some(format!("/dev/block/{major}:{minor}")),
        NodeKind::Fifo => None,
    }
}

/// Checks the number of a device.
///
/// # Errors
/// The kernel has no such number.
pub(super) fn number(major: u32, minor: u32) -> Result<(u32, u32)> {
    if major > MAX_MAJOR || minor > MAX_MINOR {
        return Err(Error::new(format!("{major}:{minor} is not the number of a device")));
    }
    Ok((major, minor))
}

/// Returns a node. `None` for one of every machine.
fn node(device: &BundleDevice<'_>) -> Result<Option<DeviceNode>> {
    let path = PathBuf::read(&RawValue::Text(&device.path))?;
    let of_device = || {
        let missing = || Error::new("a device requires 'major' and 'minor'");
        number(device.major.ok_or_else(missing)?, device.minor.ok_or_else(missing)?)
    };
    let kind = match device.kind.as_ref() {
        "c" | "u" => of_device().map(|(major, minor)| NodeKind::Character { major, minor })?,
        "b" => of_device().map(|(major, minor)| NodeKind::Block { major, minor })?,
        "p" => NodeKind::Fifo,
        other => {
            return Err(Error::new(format!("unknown type {} of a device", quoted(other)))
                .with_hint("write c, b or p"));
        }
    };
    if let NodeKind::Character { major, minor } = kind
        && IMPLICIT.contains(&(major, minor))
    {
        return Ok(None);
    }
    if !path.starts_with("/dev") || path == Path::new("/dev") {
        return Err(Error::new(format!("the node '{}' is not below '/dev'", path.display()))
            .with_hint("nodes are created in the file system at /dev only"));
    }
    let mode = device.file_mode.unwrap_or(0o644);
    if mode > 0o7777 {
        return Err(Error::new(format!("{mode} is not a mode of a file")));
    }
    let (uid, gid) = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
    if [uid, gid].contains(&u32::MAX) {
        return Err(Error::new("4294967295 is not an id"));
    }
    Ok(Some(DeviceNode { path, kind, mode, uid, gid }))
}
