//! Registers a machine with systemd-machined and unregisters it. Called by the supervisor itself, inside one
//! `block_on`, because machined takes the caller for the machine's supervisor (SYSTEMD(262)) and sends it
//! SIGTERM on `machinectl terminate`. A missing machined must not keep a machine from running: that is an
//! outcome, not an error.

mod methods;

use super::bus;
use super::session::BusConnection;
use crate::error::{Error, Result};
use crate::machine::id128::Id128;
use crate::machine::name::Name;
use crate::paths::{Paths, running_systemd};
use methods::Answer;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zbus::proxy::CacheProperties;
use zbus::{OwnedObjectPath, Variant, proxy};

/// The D-Bus error for a registered name.
const EXISTS: &str = "org.freedesktop.machine1.MachineExists";
/// The timeout for machined to remove a registration after unregistering.
const FORGETTING: Duration = Duration::from_secs(2);
/// The delay before the next attempt.
const AGAIN: Duration = Duration::from_millis(5);
#[proxy(
    interface = "org.freedesktop.machine1.Manager",
    default_service = "org.freedesktop.machine1",
    default_path = "/org/freedesktop/machine1"
)]
trait MachinedManager {
    fn get_machine(&self, name: &str) -> zbus::Result<OwnedObjectPath>;

    /// SYSTEMD(259): older versions have `RegisterMachineWithNetwork` only. An array of structures, not a
    /// dictionary as in other methods.
    fn register_machine_ex(
        &self,
        name: &str,
        properties: &[(&str, Variant<'_>)],
    ) -> zbus::Result<OwnedObjectPath>;

    fn set_image_limit(&self, name: &str, limit: u64) -> zbus::Result<()>;

    #[allow(clippy::too_many_arguments, reason = "those of the method on the bus")]
    fn register_machine_with_network(
        &self,
        name: &str,
        id: &[u8],
        service: &str,
        class: &str,
        leader: u32,
        root_directory: &str,
        interfaces: &[i32],
    ) -> zbus::Result<OwnedObjectPath>;

    /// Does not start a stopped machined.
    #[zbus(no_autostart)]
    fn unregister_machine(&self, name: &str) -> zbus::Result<()>;
}

#[proxy(interface = "org.freedesktop.machine1.Machine", default_service = "org.freedesktop.machine1")]
trait MachinedMachine {
    #[zbus(property)]
    fn leader(&self) -> zbus::Result<u32>;
    #[zbus(property)]
    fn service(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn unit(&self) -> zbus::Result<String>;
    /// SYSTEMD(258)
    #[zbus(property)]
    fn supervisor(&self) -> zbus::Result<u32>;
}

/// The registration of a machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registration<'a> {
    /// The places of Coracle.
    pub(crate) paths: &'a Paths,
    /// Its name.
    pub(crate) name: &'a Name,
    /// Its machine id; all zero if it has none.
    pub(crate) machine_id: Id128,
    /// Process id of its PID 1, in its final cgroup already: machined derives the unit from the cgroup.
    pub(crate) leader: u32,
    /// A pidfd of the leader.
    pub(crate) leader_pidfd: BorrowedFd<'a>,
    /// Its root directory on the host.
    pub(crate) root: &'a Path,
    /// Index of the host's end of its link.
    pub(crate) ifindex: Option<u32>,
    /// Its unit. `None` if it is unknown.
    pub(crate) unit: Option<&'a str>,
    /// The name of its manager, by which tools select machines.
    pub(crate) manager: &'a str,
    /// The owner of an earlier registration of the same name, as far as known.
    pub(crate) previous: PreviousOwner,
}

/// The owner of an earlier registration of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PreviousOwner {
    /// Coracle: a state record of the same machine was left over, and its supervisor is dead.
    Ours,
    /// Unknown.
    Unknown,
}

/// The result of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RegistrationResult {
    /// The machine is registered.
    Registered,
    /// machined is unavailable, for this reason.
    Absent(String),
}

/// Registers a machine. A registration of the same name is replaced if its leader is dead or if it belongs to
/// Coracle. Takes `bus::PATIENCE` at most.
///
/// # Errors
/// A live machine of another manager has the name.
pub(crate) async fn register(
    connection: &BusConnection,
    registration: &Registration<'_>,
) -> Result<RegistrationResult> {
    match tokio::time::timeout(bus::PATIENCE, register_unbounded(connection, registration)).await {
        Ok(outcome) => outcome,
        Err(_) => Ok(RegistrationResult::Absent(format!(
            "machined did not reply within {} s",
            bus::PATIENCE.as_secs()
        ))),
    }
}

/// Unregisters a machine of Coracle whose PID 1 has ended: at its end, or before it is registered again. The
/// caller knows that the registration belongs to Coracle. Takes `bus::PATIENCE` at most. A missing registration,
/// and a machined that is not running, are not errors.
///
/// # Errors
/// machined refuses or does not reply.
pub(crate) async fn unregister(name: &Name, unit: Option<&str>) -> Result<()> {
    delete_state_files(name, unit);
    let unregistered = match tokio::time::timeout(bus::PATIENCE, unregister_unbounded(name)).await {
        Ok(unregistered) => unregistered,
        Err(_) => Err(Error::new(format!("no reply within {} s", bus::PATIENCE.as_secs()))),
    };
    unregistered.map_err(|error| error.context(format!("cannot unregister '{name}' from machined")))
}

/// Implements [`unregister`], without its timeout.
async fn unregister_unbounded(name: &Name) -> Result<()> {
    let Ok(connection) = bus::connect(bus::PATIENCE).await else { return Ok(()) };
    match manager(&connection).await?.unregister_machine(name.as_str()).await {
        Err(error) if absence(&error).is_none() && !is(&error, "org.freedesktop.machine1.NoSuchMachine") => {
            Err(bus::failure(error))
        }
        _ => Ok(()),
    }
}

/// Returns whether machined knows a unit as that of a machine, by its state files: its reply to a registration
/// may have been late.
pub(crate) fn knows(unit: &str) -> bool {
    unit_file(unit).is_symlink()
}

/// Returns the state file of machined for a unit, a link.
fn unit_file(unit: &str) -> PathBuf {
    running_systemd("machines").join(format!("unit:{unit}"))
}

/// Deletes the state files of a machine whose PID 1 has ended, whether machined runs or not. A restarted
/// machined that finds a dead machine in them lets systemd stop the unit, in which the machine has rebooted
/// or was started again.
fn delete_state_files(name: &Name, unit: Option<&str>) {
    let of_name = running_systemd("machines").join(name.as_str());
    for file in [of_name].into_iter().chain(unit.map(unit_file)) {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                log::warn!("cannot remove '{}': {error}, ignoring", file.display());
            }
            _ => {}
        }
    }
}

/// Implements [`register`], without its timeout.
async fn register_unbounded(
    connection: &BusConnection,
    registration: &Registration<'_>,
) -> Result<RegistrationResult> {
    let noted = methods::noted(registration.paths);
    let with_control = || if noted.is_some() { Answer::Unable } else { methods::with_control(registration) };
    let answer = with_control();
    if answer == Answer::Registered {
        return Ok(RegistrationResult::Registered);
    }
    let connection = match connection.get().await {
        Ok(connection) => connection,
        Err(error) => return Ok(RegistrationResult::Absent(error.to_string())),
    };
    let manager = manager(connection).await?;
    let error = match methods::call(&manager, registration, noted).await {
        Ok(method) => {
            if answer == Answer::Unsupported {
                methods::note(registration.paths, method);
            }
            return Ok(RegistrationResult::Registered);
        }
        Err(error) => error,
    };
    if let Some(reason) = absence(&error) {
        return Ok(RegistrationResult::Absent(reason));
    }
    let name = registration.name;
    // The machine can run without a registration in all other cases: the caller decides.
    let refused =
        |error| Ok(RegistrationResult::Absent(format!("machined refuses: {}", bus::failure(error))));
    if !is(&error, EXISTS) {
        return refused(error);
    }
    refuse_foreign(&manager, connection, registration).await?;
    match manager.unregister_machine(name.as_str()).await {
        // The registration is gone meanwhile, as intended.
        Err(error) if !is(&error, "org.freedesktop.machine1.NoSuchMachine") => return refused(error),
        _ => log::debug!("replacing an old registration of '{name}' with machined"),
    }
    // machined removes an old registration only when it is idle.
    let began = tokio::time::Instant::now();
    loop {
        match with_control() {
            Answer::Registered => return Ok(RegistrationResult::Registered),
            // The D-Bus method cannot pass the control socket.
            Answer::Exists if began.elapsed() < FORGETTING => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Answer::Exists | Answer::Unsupported | Answer::Unable => {}
        }
        match methods::call(&manager, registration, noted).await {
            Ok(_) => return Ok(RegistrationResult::Registered),
            Err(error) if is(&error, EXISTS) && began.elapsed() < FORGETTING => {
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => return refused(error),
        }
    }
}

/// Returns whether a process is systemd-machined, by its name: only root can send the signals checked with
/// it.
pub(crate) fn is_machined(pid: u32) -> bool {
    // The kernel keeps 15 characters.
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "systemd-machine\n")
}

/// Returns an error if the registration of this name belongs to a live machine of another manager.
async fn refuse_foreign(
    manager: &MachinedManagerProxy<'_>,
    connection: &zbus::Connection,
    registration: &Registration<'_>,
) -> Result<()> {
    let name = registration.name;
    let looking = |error| bus::failure(error).context(format!("cannot look at machine '{name}' of machined"));
    let path = match manager.get_machine(name.as_str()).await {
        Err(error) if is(&error, "org.freedesktop.machine1.NoSuchMachine") => return Ok(()),
        path => path.map_err(looking)?,
    };
    let machine = MachinedMachineProxy::builder(connection).path(path).cache_properties(CacheProperties::No);
    let machine = machine.build().await.map_err(looking)?;
    let leader = machine.leader().await.unwrap_or(0);
    let unit = machine.unit().await.unwrap_or_default();
    let supervisor = machine.supervisor().await.ok();
    let ours = registration.previous == PreviousOwner::Ours
        || leader == registration.leader
        || supervisor == Some(std::process::id())
        || registration.unit.is_some_and(|ours| ours == unit);
    if ours || leader == 0 || crate::host::procfs::start_time(leader).is_none() {
        return Ok(());
    }
    let service = machine.service().await.unwrap_or_default();
    Err(Error::new(format!(
        "machined has a running machine '{name}' of another manager: leader {leader}, service '{service}', unit '{unit}'"
    ))
    .with_hint(format!("stop it with 'machinectl terminate {name}', or give this machine another name")))
}

/// Returns the proxy of machined's manager object.
async fn manager(connection: &zbus::Connection) -> Result<MachinedManagerProxy<'static>> {
    let builder = MachinedManagerProxy::builder(connection).cache_properties(CacheProperties::No);
    builder.build().await.map_err(bus::failure)
}

/// Returns whether an error is the reply of this name.
fn is(error: &zbus::Error, name: &str) -> bool {
    bus::error_name(error).is_some_and(|is| is == name)
}

/// Sets the limit of the disk space of an image on Btrfs, `None` for no limit.
///
/// # Errors
/// machined does not reply, or its file system counts no space.
pub(crate) async fn set_image_limit(name: &Name, bytes: Option<u64>) -> Result<()> {
    let connection = bus::connect(bus::PATIENCE).await?;
    let manager = manager(&connection).await?;
    manager.set_image_limit(name.as_str(), bytes.unwrap_or(u64::MAX)).await.map_err(|error| {
        bus::failure(error)
            .context("systemd-machined cannot limit the image")
            .with_hint("enable quotas of Btrfs: btrfs quota enable /var/lib/machines")
    })
}

/// Returns why there was no reply of machined, or of another service. `None` if it replied.
pub(super) fn absence(error: &zbus::Error) -> Option<String> {
    let absent = match bus::error_name(error) {
        // The connection broke, or machined ended during the call.
        None => true,
        Some(name) => {
            name.starts_with("org.freedesktop.DBus.Error.Spawn.")
                || matches!(
                    name.as_str(),
                    "org.freedesktop.DBus.Error.ServiceUnknown"
                        | "org.freedesktop.DBus.Error.NameHasNoOwner"
                        | "org.freedesktop.DBus.Error.NoReply"
                        | "org.freedesktop.DBus.Error.Timeout"
                        | "org.freedesktop.DBus.Error.TimedOut"
                        | "org.freedesktop.DBus.Error.Disconnected"
                        | "org.freedesktop.systemd1.NoSuchUnit"
                        | "org.freedesktop.systemd1.UnitMasked"
                        | "org.freedesktop.systemd1.LoadFailed"
                        | "org.freedesktop.systemd1.ShuttingDown"
                )
        }
    };
    absent.then(|| format!("machined is not available: {}", bus::failure(error.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(error: zbus::fdo::Error) -> zbus::Error {
        zbus::Error::FDO(Box::new(error))
    }

    #[test]
    fn other_processes_are_not_machined() {
        assert!(!is_machined(std::process::id()));
        assert!(!is_machined(0));
    }

    #[test]
    fn a_missing_machined_differs_from_a_refusal() {
        let missing = reply(zbus::fdo::Error::ServiceUnknown("The name is not activatable".into()));
        assert!(absence(&missing).unwrap().contains("the name is not activatable"));
        assert!(absence(&reply(zbus::fdo::Error::NoReply("gone".into()))).is_some());
        let refused = reply(zbus::fdo::Error::AccessDenied("no".into()));
        assert!(absence(&refused).is_none());
    }
}
