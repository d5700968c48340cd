//! `device`: devices of the host in a running machine, added and removed while it runs: the permission of its
//! cgroup, the node and the properties of udev(7). All of it ends with the machine: the service
//! `coracle-devices@NAME.service` stops with it, and calls [`forget`].

use super::{block_on, freezer, running, signal};
use crate::error::{Context, Error, Result};
use crate::host::lock;
use crate::host::systemd::units::{self, JobAction, Until, devices as allowed};
use crate::host::usb;
use crate::machine::name::Name;
use crate::machine::unit_name::{self, ServiceTemplate};
use crate::machine::usb_device::{self, UsbDevice};
use crate::machine::users::RANGE_SIZE;
use crate::paths::Paths;
use crate::payload::hotplug::HotplugNode;
use crate::state::devices::{self, AddedDevice};
use crate::state::record::Record;
use crate::sys::guest_files::Owners;
use nix::sched::{CloneFlags, setns};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// A request to add a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceRequest<'a> {
    /// The machine.
    pub(crate) name: &'a Name,
    /// The device of the host, or `usb:` with the ids of a USB device.
    pub(crate) device: &'a Path,
    /// Its path inside, below `/dev`. `None` for that of the host.
    pub(crate) path: Option<&'a Path>,
    /// Whether the machine may only read it.
    pub(crate) read_only: bool,
    /// Whether it is added because it was plugged in, and removed when it is unplugged.
    pub(crate) hotplug: bool,
}

/// Adds a device to a running machine.
///
/// # Errors
/// A file that is no device, a machine without a service of its own, or a path that exists inside. Nothing is
/// changed then.
pub(crate) fn add(paths: &Paths, request: &DeviceRequest<'_>) -> Result<()> {
    let (device, mut added) = find(request)?;
    let record = running(paths, request.name)?;
    let unit = service_of(&record)?;
    freezer::refuse_frozen(paths, &record)?;
    let leader = signal::leader(&record)?;
    added.leader = record.leader.unwrap_or_default();
    let _lock = lock::wait(paths, &format!("devices-{}", request.name))?;
    let mut list = devices::read(paths, request.name, added.leader)?;
    if let Some(known) = list.iter().find(|known| known.path == added.path || known.number == added.number) {
        let message = format!("machine '{}' has '{}' already", request.name, known.path.display());
        return Err(Error::new(message).with_hint(format!(
            "remove it first: coracle device remove {} {}",
            request.name,
            known.path.display()
        )));
    }
    let node = node(&added, &record, device.mode());
    // Before the first permission: at the stop of the machine it removes all of them.
    let companion = unit_name::devices_service(request.name);
    let mut nothing = |_: &str, _: &str| ControlFlow::Continue(());
    let started = block_on(units::run(JobAction::Start, &[companion], Until::Done, &mut nothing))??;
    started.into_iter().try_for_each(|one| one.result)?;
    // The list next: also after a kill it names each permission.
    list.push(added.clone());
    devices::write(paths, request.name, &list)?;
    let properties = std::fs::read(Path::new("/run/udev/data").join(node.properties_name())).ok();
    let number = by_number(&added);
    let allowed = block_on(allowed::allow(&unit, &number, &added.access)).and_then(|allowed| allowed);
    let made = allowed.and_then(|()| inside(&leader, || node.create(properties.as_deref())));
    if made.is_err() {
        // The permission alone would outlive the failure. While it may exist, the list names it.
        list.pop();
        let denied = block_on(allowed::deny(&unit, &number)).and_then(|denied| denied);
        denied
            .and_then(|()| devices::write(paths, request.name, &list))
            .unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    }
    made
}

/// Returns the device of a request, and its entry without a boot.
fn find(request: &DeviceRequest<'_>) -> Result<(std::fs::Metadata, AddedDevice)> {
    let named = match request.device.to_str().filter(|text| text.starts_with(usb_device::PREFIX)) {
        Some(wanted) => usb::node(&UsbDevice::parse(wanted)?)?,
        None => request.device.to_owned(),
    };
    let finding = || format!("cannot find device '{}'", named.display());
    let device = std::fs::canonicalize(&named).context(finding)?;
    let found = std::fs::metadata(&device).context(finding)?;
    let kind = found.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return Err(Error::new(format!("'{}' is not a device", device.display())).with_hint(format!(
            "mount it: coracle bind {} {}",
            request.name,
            device.display()
        )));
    }
    let path = request.path.unwrap_or(if named.starts_with("/dev") { &named } else { &device });
    let below = path.strip_prefix("/dev").ok().filter(|below| below.file_name().is_some());
    if !below.is_some_and(|below| below.components().all(|part| matches!(part, Component::Normal(_)))) {
        return Err(Error::usage(format!("'{}' is not a path below /dev", path.display()))
            .with_hint("write a path in the machine, for example /dev/sdb"));
    }
    let added = AddedDevice {
        path: path.to_owned(),
        block: kind.is_block_device(),
        number: found.rdev(),
        access: if request.read_only { "r" } else { "rw" }.to_owned(),
        leader: 0,
        hotplug: request.hotplug,
        device,
    };
    Ok((found, added))
}

/// Returns the unit of a machine, which permits its devices.
fn service_of(record: &Record) -> Result<String> {
    let unit =
        record.unit.clone().filter(|unit| ServiceTemplate::of_unit(unit) == Some(ServiceTemplate::Coracle));
    unit.ok_or_else(|| {
        let wanted = ServiceTemplate::Coracle.service(&record.name);
        Error::new(format!("devices are added to machines of the unit '{wanted}'")).with_hint(
            "name the device in security.devices of the definition, or with --property=DeviceAllow=",
        )
    })
}

/// Returns the path of a device by its number, which does not depend on a node.
fn by_number(device: &AddedDevice) -> String {
    let kind = if device.block { "block" } else { "char" };
    format!("/dev/{kind}/{}:{}", rustix::fs::major(device.number), rustix::fs::minor(device.number))
}

fn node(device: &AddedDevice, record: &Record, mode: u32) -> HotplugNode {
    HotplugNode {
        path: device.path.clone(),
        is_block: device.block,
        number: device.number,
        mode: mode & 0o777,
        owner: record.id_base.unwrap_or_default(),
        owners: match record.id_base {
            None | Some(0) => Owners::ALL,
            Some(first) => Owners { first, count: RANGE_SIZE },
        },
    }
}

/// Calls `act` in the mount namespace of a machine.
fn inside(leader: &OwnedFd, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let enter = |namespace: &OwnedFd| {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS).context(|| "cannot enter a mount namespace")
    };
    let own = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open the mount namespace of this process")?;
    enter(leader)?;
    let done = act();
    enter(&own)?;
    done
}

/// Removes a device from a running machine, by its path inside or on the host.
///
/// # Errors
/// No such device was added.
pub(crate) fn remove(paths: &Paths, name: &Name, path: &Path) -> Result<()> {
    let record = running(paths, name)?;
    let unit = service_of(&record)?;
    let leader = signal::leader(&record)?;
    let _lock = lock::wait(paths, &format!("devices-{name}"))?;
    let mut list = devices::read(paths, name, record.leader.unwrap_or_default())?;
    let is_it = |known: &AddedDevice| known.path == path || known.device == path;
    let Some(at) = list.iter().position(is_it) else {
        return Err(Error::new(format!("no device '{}' was added to machine '{name}'", path.display()))
            .with_hint(format!("list the devices: coracle device list {name}")));
    };
    let device = list.remove(at);
    // The permission first: a copy of the node made inside is useless then.
    block_on(allowed::deny(&unit, &by_number(&device)))??;
    // Without it a node that stays is useless, and the device can be added again at another path.
    let removed = inside(&leader, || node(&device, &record, 0).remove());
    devices::write(paths, name, &list).and(removed)
}

/// Lists the devices added to a running machine.
///
/// # Errors
/// The machine is not running.
pub(crate) fn list(paths: &Paths, name: &Name) -> Result<Vec<AddedDevice>> {
    let record = running(paths, name)?;
    devices::read(paths, name, record.leader.unwrap_or_default())
}

/// Removes the permissions that systemd has stored for the unit of a machine, which stops.
///
/// # Errors
/// systemd does not reply.
pub(crate) fn forget(name: &Name) -> Result<()> {
    block_on(allowed::forget(&ServiceTemplate::Coracle.service(name)))?
}

/// Returns the cells of a device for the table: path, device, kind, number, access.
pub(crate) fn cells(device: &AddedDevice) -> Vec<String> {
    let shown = |path: &PathBuf| path.display().to_string();
    vec![
        shown(&device.path),
        shown(&device.device),
        if device.block { "block" } else { "char" }.to_owned(),
        format!("{}:{}", rustix::fs::major(device.number), rustix::fs::minor(device.number)),
        device.access.clone(),
    ]
}
