//! The process, unit and cgroup of a machine that starts. Called by `run`.

use crate::error::{Context, Error, Result};
use crate::host::cgroup::Cgroup;
use crate::host::runtime::{runtime, unless_interrupted};
use crate::host::systemd::session::BusSession;
use crate::host::systemd::units;
use crate::machine::console::Console;
use crate::machine::contract::Contract;
use crate::machine::descriptor_name;
use crate::machine::unit_name::{self, ServiceTemplate};
use crate::machine::{Machine, Register};
use crate::supervisor::handover::Carried;
use crate::supervisor::launch::Placement;
use rustix::fs::FileType;
use std::ffi::OsStr;
use std::path::Path;

/// Refuses a process that cannot create machines because it is in a chroot(2). A process that joins a mount
/// namespace, the machine as well as its supervisor, gets the root of the namespace (setns(2)). After an
/// error because of a chroot this process is not in it any more.
///
/// # Errors
/// Missing rights, or a chroot.
pub(super) fn check_process() -> Result<()> {
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

/// Refuses a machine in the service of another template than that of its definition.
///
/// # Errors
/// `boot.machinectl` was changed, and systemd has not read the definition or was told to start the other unit.
pub(super) fn check_unit(machine: &Machine) -> Result<()> {
    let Some(unit) = own_unit().filter(|unit| ServiceTemplate::of_unit(unit).is_some()) else {
        return Ok(());
    };
    let service = machine.service();
    if unit == service {
        return Ok(());
    }
    Err(Error::new(format!(
        "the unit of machine '{}' is '{service}', not '{unit}' (boot.machinectl)",
        machine.name
    ))
    .with_hint(format!("run 'systemctl daemon-reload', then 'coracle start {}'", machine.name)))
}

/// Refuses a directory as standard input of a payload that gets the streams themselves. A shell opens a
/// directory for input only.
///
/// # Errors
/// A directory: it would lead out of the machine.
pub(super) fn check_input(console: Console) -> Result<()> {
    let is_directory = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if console == Console::Pipe && rustix::fs::fstat(rustix::stdio::stdin()).is_ok_and(is_directory) {
        return Err(Error::new("standard input is a directory of the host")
            .with_hint("it would lead out of the machine; give a file, a pipe or /dev/null"));
    }
    Ok(())
}

/// Returns the number of descriptors that the service manager has passed, for the payload (sd_listen_fds(3)).
///
/// # Errors
/// Invalid variables, or a directory of the host: it would lead out of the machine.
pub(super) fn passed_descriptors() -> Result<u32> {
    let doing = || "cannot pass on descriptors of LISTEN_FDS";
    let passed = sd_notify::listen_fds().context(doing)?;
    let count = passed.len();
    let is_own = |pid: &OsStr| count == 0 && *pid == *std::process::id().to_string();
    if std::env::var_os("LISTEN_PID").is_some_and(|pid| pid == "0" || is_own(&pid)) {
        return Err(Error::new("LISTEN_PID and LISTEN_FDS are at least 1")).context(doing);
    }
    for number in passed {
        let is_directory =
            std::fs::metadata(format!("/proc/self/fd/{number}")).is_ok_and(|data| data.is_dir());
        if is_directory {
            return Err(Error::new(format!("descriptor {number} of LISTEN_FDS is a directory of the host"))
                .with_hint("it would lead out of the machine; bind it with --bind=, or pass no directory"));
        }
    }
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Returns the names of the passed descriptors for the payload. `None` if there are none, or other ones.
pub(super) fn descriptor_names(count: u32) -> Option<String> {
    let names = (count > 0).then(|| std::env::var("LISTEN_FDNAMES").ok()).flatten()?;
    descriptor_name::for_payload(&names, usize::try_from(count).unwrap_or(usize::MAX))
}

/// The place of a machine, before anything is created in it.
#[derive(Debug)]
pub(super) enum Place {
    /// The service or scope that the process is in. `None` if it cannot be found.
    Current(Option<String>),
    /// The same for `--keep-unit`: several machines may be in it.
    Shared(Option<String>),
    /// A new scope.
    Scope(String),
    /// A cgroup that Coracle creates, on a host without systemd.
    Cgroup,
    /// That of the boot before.
    Kept(Placement),
}

impl Place {
    /// Returns the place of a machine in its unit.
    pub(super) fn in_unit(machine: &Machine, kept: Option<&Carried>) -> Self {
        // The definition may have another unit since the first boot.
        Self::Current(kept.map_or_else(|| Some(machine.service()), |kept| kept.state.record.unit.clone()))
    }

    /// Returns the place of `coracle run`.
    pub(super) fn in_foreground(machine: &Machine, kept: Option<&Carried>) -> Self {
        if let Some(kept) = kept {
            let record = &kept.state.record;
            let is_ours = record.cgroup_is_ours;
            let cgroup = record.cgroup.clone().map(|directory| Cgroup { directory, is_ours, is_free: true });
            return Self::Kept(Placement { unit: record.unit.clone(), cgroup, ..Placement::default() });
        }
        if !units::is_running() {
            log::info!("PID 1 of this host is not systemd: the machine has no unit and is not registered");
            return Self::Cgroup;
        }
        if machine.keep_unit { Self::Shared(own_unit()) } else { Self::Scope(scope(machine)) }
    }

    /// Returns the unit. `None` without systemd.
    pub(super) fn unit(&self) -> Option<&str> {
        match self {
            Self::Current(unit) | Self::Shared(unit) => unit.as_deref(),
            Self::Scope(name) => Some(name),
            Self::Cgroup => None,
            Self::Kept(placement) => placement.unit.as_deref(),
        }
    }

    /// Moves this process there.
    ///
    /// # Errors
    /// A scope that systemd does not start, or a cgroup that cannot be found.
    pub(super) fn enter(self, machine: &Machine) -> Result<Placement> {
        if !machine.properties.is_empty() && matches!(self, Self::Current(_) | Self::Shared(_) | Self::Cgroup)
        {
            log::warn!("--property= has no effect: the machine has no scope of its own");
        }
        match self {
            Self::Shared(unit) => {
                let (cgroup, lock) = Cgroup::of_shared_unit(&machine.name)?;
                Ok(Placement { unit, cgroup: Some(cgroup), lock, bus: None })
            }
            Self::Current(unit) => {
                Ok(Placement { unit, cgroup: Some(Cgroup::of_unit()?), ..Placement::default() })
            }
            Self::Scope(name) => {
                let bus = Some(start_scope(&name, machine)?);
                Ok(Placement { unit: Some(name), cgroup: Some(Cgroup::of_unit()?), lock: None, bus })
            }
            Self::Cgroup => {
                Ok(Placement { cgroup: Cgroup::of_our_own(&machine.name), ..Placement::default() })
            }
            Self::Kept(placement) => Ok(placement),
        }
    }
}

/// Returns the name of the scope. SYSTEMD(258): machined created those of registered machines before.
fn scope(machine: &Machine) -> String {
    if machine.contract == Contract::Coracle {
        return unit_name::scope(&machine.name);
    }
    let is_old = || {
        let version = runtime().and_then(|runtime| runtime.block_on(units::version())).unwrap_or_default();
        let digits = version.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
        digits.parse::<u32>().is_ok_and(|version| version < 258)
    };
    unit_name::nspawn_scope(&machine.name, machine.register != Register::No && is_old())
}

/// Creates the scope, and moves this process there. Returns the bus for the next steps.
fn start_scope(name: &str, machine: &Machine) -> Result<BusSession> {
    let devices = [&machine.security.optional_devices[..], &machine.security.devices].concat();
    let kind = if machine.contract == Contract::Nspawn { "Container" } else { "Machine" };
    // systemd-nspawn itself stays in the service of its caller, which ends it.
    let caller = if machine.contract == Contract::Nspawn { own_service() } else { None };
    let scope = units::Scope {
        name,
        slice: machine.slice.as_deref().unwrap_or("machine.slice"),
        description: &format!("{kind} {}", machine.name),
        pid: std::process::id(),
        devices: &devices,
        resources: &machine.resources,
        bound_to: caller.as_deref(),
    };
    let bus = BusSession::new()?;
    bus.block_on(unless_interrupted(units::start_scope(&bus.connection(), &scope)))?;
    if !machine.properties.is_empty() {
        units::properties::set_from_text(name, &machine.properties)?;
    }
    Ok(bus)
}

/// Returns the unit of this process, by its cgroup.
fn own_unit() -> Option<String> {
    let cgroup = crate::host::cgroup::current()?;
    let names = cgroup.iter().rev().filter_map(|name| name.to_str());
    names.map(str::to_owned).find(|name| name.ends_with(".service") || name.ends_with(".scope"))
}

/// Returns the service of this process. `None` in a session, and in a unit of a user's manager.
fn own_service() -> Option<String> {
    let cgroup = crate::host::cgroup::current()?;
    service_of(&cgroup).map(str::to_owned)
}

fn service_of(cgroup: &Path) -> Option<&str> {
    let mut names = cgroup.iter().filter_map(|name| name.to_str());
    let unit = names.find(|name| name.ends_with(".service") || name.ends_with(".scope"))?;
    (unit.ends_with(".service") && !unit.starts_with("user@")).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_one_of_the_system() {
        for (cgroup, service) in [
            ("system.slice/build.service", Some("build.service")),
            ("system.slice/system-build.slice/build@a.service/supervisor", Some("build@a.service")),
            ("user.slice/user-0.slice/session-1.scope", None),
            ("user.slice/user-0.slice/user@0.service/app.slice/build.service", None),
            ("exec.1", None),
            ("", None),
        ] {
            assert_eq!(service_of(&Path::new("/sys/fs/cgroup").join(cgroup)), service, "{cgroup}");
        }
    }
}
