//! The process, unit and cgroup of a machine that starts. Called by `run`.

use crate::error::{Error, Result};
use crate::host::cgroup::Cgroup;
use crate::host::runtime::runtime;
use crate::host::systemd::units;
use crate::machine::Machine;
use crate::supervisor::handover::Carried;
use crate::supervisor::launch::Placement;

/// Refuses a process that cannot create machines: it must be root, and not in a chroot(2). A process that
/// joins a mount namespace, the machine as well as its supervisor, gets the root of the namespace (setns(2)).
/// After an error because of a chroot this process is not in it any more.
///
/// # Errors
/// Missing rights, or a chroot.
pub(super) fn check_process() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new("must be run as root").with_hint("run it with sudo(8)"));
    }
    match crate::sys::mount::leaves_chroot() {
        Ok(true) => Err(Error::new("this process runs in a chroot, which a machine could leave").with_hint(
            "run coracle outside of the chroot, or make the directory the root of a mount namespace (pivot_root(8))",
        )),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Error::from(error)
            .context("cannot join mount namespaces, which creating a machine requires")
            .with_hint("a container needs CAP_SYS_ADMIN and no system-call filter for that (--privileged)")),
        _ => Ok(()),
    }
}

/// Returns the placement of a machine in its unit.
///
/// # Errors
/// A cgroup that cannot be found.
pub(super) fn in_unit(machine: &Machine, _: Option<&Carried>) -> Result<Placement> {
    let unit = Some(crate::machine::unit_name::service(&machine.name));
    Ok(Placement { unit, cgroup: Some(Cgroup::of_unit()?) })
}

/// Returns the placement of `coracle run`: a new scope, or the unit of this process, or a cgroup that Coracle
/// creates on a host without systemd.
///
/// # Errors
/// A scope that systemd does not start.
pub(super) fn in_foreground(machine: &Machine, kept: Option<&Carried>) -> Result<Placement> {
    if let Some(kept) = kept {
        let record = &kept.state.record;
        let is_ours = record.cgroup_is_ours;
        let cgroup = record.cgroup.clone().map(|directory| Cgroup { directory, is_ours, is_free: true });
        return Ok(Placement { unit: record.unit.clone(), cgroup });
    }
    if !units::is_running() {
        log::info!("PID 1 of this host is not systemd: the machine has no unit and is not registered");
        return Ok(Placement { unit: None, cgroup: Cgroup::of_our_own(&machine.name) });
    }
    if machine.keep_unit {
        return Ok(Placement { unit: own_unit(), cgroup: Some(Cgroup::of_unit()?) });
    }
    let name = format!("coracle-{}.scope", machine.name);
    let devices = [&machine.security.optional_devices[..], &machine.security.devices].concat();
    let scope = units::Scope {
        name: &name,
        slice: machine.slice.as_deref().unwrap_or("machine.slice"),
        description: &format!("Machine {}", machine.name),
        pid: std::process::id(),
        devices: &devices,
        resources: &machine.resources,
    };
    runtime()?.block_on(units::start_scope(&scope))?;
    Ok(Placement { unit: Some(name), cgroup: Some(Cgroup::of_unit()?) })
}

/// Returns the unit of this process, by its cgroup.
fn own_unit() -> Option<String> {
    let cgroup = crate::host::cgroup::current()?;
    let names = cgroup.iter().rev().filter_map(|name| name.to_str());
    names.map(str::to_owned).find(|name| name.ends_with(".service") || name.ends_with(".scope"))
}
