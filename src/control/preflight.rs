//! The requirements of a start that the host can lose: root, sources of mounts, devices, interfaces and
//! ports. Called by `restart`, before a running machine is stopped, and by `check`. It changes nothing.

use crate::config::check::{self, Checked};
use crate::config::{Problem, Resolved};
use crate::error::{Error, Result};
use crate::host::{lxcfs, probe};
use crate::machine::Machine;
use crate::machine::mounts::{BindPath, LayerPath, Mount, MountKind};
use crate::machine::name::Name;
use crate::machine::network::{InterfaceKind, Port};
use crate::network::interfaces::ExtraInterface;
use crate::network::listeners;
use crate::paths::Paths;
use crate::state::address_conflicts;
use crate::state::record::Record;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Checks every definition of the host, and warns of requirements that are missing now.
///
/// # Errors
/// A directory of files cannot be read.
pub(crate) fn check_all(paths: &Paths) -> Result<Checked> {
    Ok(with_requirements(paths, check::all(paths)?))
}

/// Checks the named machines and files, and warns of requirements that are missing now.
///
/// # Errors
/// A machine does not exist, or its files cannot be found.
pub(crate) fn check_named(paths: &Paths, named: &[PathBuf]) -> Result<Checked> {
    Ok(with_requirements(paths, check::files(paths, named)?))
}

/// Checks a text as the definition of a machine, without its other files, and warns of requirements that are missing
/// now.
///
/// # Errors
/// An invalid name.
pub(crate) fn check_text(paths: &Paths, name: &Path, text: &str) -> Result<Checked> {
    let name = Name::new(&name.to_string_lossy())?;
    Ok(with_requirements(paths, check::text(paths, &name, text)))
}

/// Checks all files of a machine as they are once its definition has this text, and warns of requirements that are
/// missing now.
///
/// # Errors
/// Its files cannot be found.
pub(super) fn check_replaced(paths: &Paths, name: &Name, text: &str) -> Result<Checked> {
    Ok(with_requirements(paths, check::replaced(paths, name, text)?))
}

fn with_requirements(paths: &Paths, mut checked: Checked) -> Checked {
    for (file, Resolved { machine, .. }) in &checked.machines {
        let missing = missing(paths, machine);
        let warning = |error: &Error| Problem::new(file.as_deref(), error).into_warning();
        checked.problems.extend(missing.iter().map(warning));
    }
    checked
}

/// Refuses to restart a machine whose next start would fail.
///
/// # Errors
/// All missing requirements.
pub(super) fn refuse_missing(paths: &Paths, machine: &Machine) -> Result<()> {
    let mut missing = missing(paths, machine);
    if missing.len() > 1 {
        let all: Vec<String> = missing.iter().map(ToString::to_string).collect();
        return Err(Error::new(all.join("; ")).with_hint(format!("see 'coracle check {}'", machine.name)));
    }
    missing.pop().map_or(Ok(()), Err)
}

/// Returns an error for each missing requirement of a start.
fn missing(paths: &Paths, machine: &Machine) -> Vec<Error> {
    let mounts = machine.mounts.iter().filter_map(|mount| refuse_mount(paths, mount).err());
    let network = &machine.network;
    let bridge = network.bridge.iter().filter_map(|bridge| refuse_bridge(paths, bridge.as_str()).err());
    let interfaces = network.interfaces.iter().filter(|interface| {
        // A moved interface is inside while the machine runs, and a pair is created.
        matches!(interface.kind, InterfaceKind::Macvlan | InterfaceKind::Ipvlan)
    });
    let interfaces =
        interfaces.filter_map(|interface| refuse_interface(paths, interface.names.host.as_str()).err());
    let limits = if machine.resources.visible { lxcfs::files().map(drop) } else { Ok(()) };
    let others = [refuse_root(paths, machine), probe::named_devices(&machine.security).map(drop), limits];
    let ports = [refuse_ports(paths, machine), refuse_addresses(paths, machine)];
    let host = others.into_iter().filter_map(Result::err);
    let ports = ports.into_iter().filter_map(Result::err);
    host.chain(mounts).chain(bridge).chain(interfaces).chain(ports).collect()
}

/// Returns whether a path of the host is known to be missing.
fn is_missing(paths: &Paths, path: &Path) -> bool {
    let found = std::fs::metadata(paths.join(path));
    found.is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
}

fn refuse_root(paths: &Paths, machine: &Machine) -> Result<()> {
    let root = machine.root.path();
    if !is_missing(paths, root) {
        return Ok(());
    }
    Err(Error::new(format!("the root '{}' does not exist", root.display())).with_hint(
        "create a root file system there, for example with mmdebstrap(1), or correct the definition",
    ))
}

fn refuse_mount(paths: &Paths, mount: &Mount) -> Result<()> {
    let layers = match &mount.kind {
        MountKind::Overlay { lower, .. } => lower.as_slice(),
        _ => &[],
    };
    let layers = layers.iter().filter_map(|layer| match layer {
        LayerPath::Host(path) => Some(path),
        LayerPath::Inside(_) => None,
    });
    let source = match &mount.kind {
        MountKind::Bind { source: BindPath::Host(source), .. } => Some(source),
        _ => None,
    };
    match source.into_iter().chain(layers).find(|path| is_missing(paths, path)) {
        Some(path) => Err(Error::new(format!(
            "cannot mount '{}' on '{}': no such file or directory",
            path.display(),
            mount.target.display()
        ))
        .with_hint("create it on the host, or remove the mount from the definition")),
        None => Ok(()),
    }
}

fn refuse_bridge(paths: &Paths, bridge: &str) -> Result<()> {
    let directory = Path::new("/sys/class/net").join(bridge);
    if is_missing(paths, &directory) {
        return Err(Error::new(format!("bridge '{bridge}' does not exist"))
            .with_hint(format!("create it with 'ip link add {bridge} type bridge'")));
    }
    if is_missing(paths, &directory.join("bridge")) {
        return Err(Error::new(format!("interface '{bridge}' is not a bridge"))
            .with_hint("list the bridges of the host with 'ip link show type bridge'"));
    }
    Ok(())
}

fn refuse_interface(paths: &Paths, name: &str) -> Result<()> {
    if !is_missing(paths, &Path::new("/sys/class/net").join(name)) {
        return Ok(());
    }
    Err(Error::new(format!("the host has no interface '{name}'")).with_hint("see 'ip link'"))
}

/// Refuses static addresses that the host or another machine uses.
fn refuse_addresses(paths: &Paths, machine: &Machine) -> Result<()> {
    address_conflicts::refuse_of_host(paths, machine)?;
    let interfaces = ExtraInterface::all(&machine.name, &machine.network, probe::host_id);
    address_conflicts::refuse_of_machines(paths, machine, &interfaces)
}

/// Refuses ports with a listening program or of another running machine. At ports that start a machine
/// systemd listens.
fn refuse_ports(paths: &Paths, machine: &Machine) -> Result<()> {
    let network = &machine.network;
    let ports: Vec<Port> =
        network.ports.iter().filter(|port| !network.on_demand.contains(port)).copied().collect();
    if ports.is_empty() {
        return Ok(());
    }
    listeners::refuse_listening(paths, &ports)?;
    for other in Record::all(paths).iter().filter(|other| other.name != machine.name && other.is_alive()) {
        let held = other.ports();
        let clash = ports.iter().find(|port| held.iter().any(|held| held.overlaps(port)));
        if let Some(port) = clash {
            return Err(Error::new(format!("cannot forward '{port}': machine '{}' has it", other.name))
                .with_hint("stop that machine, or choose another port"));
        }
    }
    Ok(())
}
