//! The scope of a machine that runs in the foreground.

use super::jobs;
use super::{SystemdManagerProxy, UnitStatus, manager, status_of};
use crate::error::{Error, Result};
use crate::host::cgroup;
use crate::host::systemd::bus;
use crate::host::systemd::session::BusConnection;
use crate::machine::resources::Resources;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use zbus::{Connection, OwnedObjectPath, Variant};

/// The allowed devices beside those of `DevicePolicy=closed`, as in `units/coracle@.service`.
const DEVICES: [(&str, &str); 1] = [("char-pts", "rw")];

/// A scope to be created around a process, with a delegated cgroup.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    /// Its name, with `.scope`.
    pub(crate) name: &'a str,
    /// Its slice, with `.slice`.
    pub(crate) slice: &'a str,
    /// The description in `systemctl status`.
    pub(crate) description: &'a str,
    /// The process that moves into it.
    pub(crate) pid: u32,
    /// Allowed devices beside the default ones.
    pub(crate) devices: &'a [PathBuf],
    /// Its limits.
    pub(crate) resources: &'a Resources,
    /// The unit that it stops with, even at an unexpected end.
    pub(crate) bound_to: Option<&'a str>,
}

/// The time that the scope of an earlier run may stay after the end of its last process: systemd is notified
/// of that end with a delay.
const LEAVING: Duration = Duration::from_secs(5);
/// The time until an empty scope is stopped: systemd is never notified of the end of a process that ended
/// while it was moved into its scope.
const ABANDONED: Duration = Duration::from_millis(200);
/// The delay between two queries of systemd.
const PAUSE: Duration = Duration::from_millis(2);

/// Creates a scope and waits until the process is in it. systemd deletes it after the end of its last
/// process.
///
/// # Errors
/// systemd refuses, or a unit of that name is in use.
pub(crate) async fn start_scope(connection: &BusConnection, scope: &Scope<'_>) -> Result<()> {
    let name = scope.name;
    let connection = connection.get().await?;
    let manager = manager(connection).await?;
    let mut messages = jobs::listen(connection, &manager).await?;
    let begun = Instant::now();
    let mut stopped = false;
    let made = loop {
        match request(&manager, scope).await {
            Err(error) if exists(&error) && begun.elapsed() < LEAVING => {
                let content = content(connection, &manager, name).await;
                if content == Content::Machine {
                    break Err(error);
                }
                if !stopped && begun.elapsed() > ABANDONED && content == Content::Nothing {
                    stopped = true;
                    // The next request fails if this does.
                    let _ = manager.stop_unit(name, "replace").await;
                }
                tokio::time::sleep(PAUSE).await;
            }
            made => break made,
        }
    };
    let job = made.map_err(|error| {
        let hint = exists(&error).then(|| format!("see 'systemctl status {name}', and stop it first"));
        let error = bus::failure(error).context(format!("cannot create the scope '{name}'"));
        hint.into_iter().fold(error, Error::with_hint)
    })?;
    jobs::wait_for(connection, &manager, &mut messages, name, job).await
}

/// Stops a scope without processes, and waits until it is gone. A missing scope, and one in use, are left
/// alone.
///
/// # Errors
/// systemd does not reply, or refuses.
pub(crate) async fn stop_empty_scope(name: &str) -> Result<()> {
    let connection = bus::connect(bus::PATIENCE).await?;
    let manager = manager(&connection).await?;
    let is_active = |status: UnitStatus| status.active_state == "active";
    if !status_of(&connection, &manager, name).await.is_ok_and(is_active)
        || content(&connection, &manager, name).await != Content::Nothing
    {
        return Ok(());
    }
    let mut messages = jobs::listen(&connection, &manager).await?;
    match manager.stop_unit(name, "replace").await {
        Ok(job) => jobs::wait_for(&connection, &manager, &mut messages, name, job).await,
        // It ended meanwhile.
        Err(error) if bus::error_name(&error).is_some_and(|name| name.ends_with(".NoSuchUnit")) => Ok(()),
        Err(error) => Err(bus::failure(error).context(format!("cannot stop the scope '{name}'"))),
    }
}

/// Requests the scope, once.
async fn request(manager: &SystemdManagerProxy<'_>, scope: &Scope<'_>) -> zbus::Result<OwnedObjectPath> {
    manager.start_transient_unit(scope.name, "fail", &properties(scope), &[]).await
}

/// Returns whether the error is that of an existing unit.
fn exists(error: &zbus::Error) -> bool {
    bus::error_name(error).is_some_and(|name| name.ends_with(".UnitExists"))
}

/// The content of the scope of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// No processes.
    Nothing,
    /// A supervisor that removes the changes of its ended machine.
    Supervisor,
    /// A machine, or an unknown content.
    Machine,
}

async fn content(connection: &Connection, manager: &SystemdManagerProxy<'_>, unit: &str) -> Content {
    let Ok(status) = status_of(connection, manager, unit).await else { return Content::Machine };
    let path = Some(&status.control_group).filter(|path| !path.is_empty());
    match path.and_then(|path| cgroup::directory(path)) {
        Some(directory) if cgroup::is_populated(&directory) => {
            if directory.join(cgroup::PAYLOAD).exists() {
                Content::Machine
            } else {
                Content::Supervisor
            }
        }
        _ => Content::Nothing,
    }
}

/// The signal sent by systemd when it stops a scope: to all its processes, so that it must mean a stop to the
/// supervisor only. SIGTERM means a reboot to some inits; SIGURG is ignored by default (signal(7)).
pub(crate) const STOP_SIGNAL: i32 = libc::SIGURG;

/// Returns the properties of a scope (org.freedesktop.systemd1(5)).
fn properties<'a>(scope: &Scope<'a>) -> Vec<(&'a str, Variant<'a>)> {
    let named = scope.devices.iter().filter_map(|path| Some((path.to_str()?, "rwm")));
    let devices: Vec<(&str, &str)> = DEVICES.into_iter().chain(named).collect();
    let mut properties = vec![
        ("Description", Variant::from(scope.description)),
        ("Slice", Variant::from(scope.slice)),
        ("Delegate", Variant::from(true)),
        ("DevicePolicy", Variant::from("closed")),
        ("DeviceAllow", Variant::from(devices)),
        ("KillSignal", Variant::from(STOP_SIGNAL)),
        // A failed scope would keep its name from the next run.
        ("CollectMode", Variant::from("inactive-or-failed")),
        ("PIDs", Variant::from(vec![scope.pid])),
    ];
    // Without After=: a service of the type `oneshot` starts as long as its process runs.
    properties.extend(scope.bound_to.map(|unit| ("BindsTo", Variant::from(vec![unit]))));
    let limits = scope.resources;
    let numbers = [
        ("MemoryMax", limits.memory_max),
        ("MemoryHigh", limits.memory_high),
        ("MemorySwapMax", limits.memory_swap_max),
        // A percentage of one processor as microseconds per second.
        ("CPUQuotaPerSecUSec", limits.cpu_quota.map(|percent| u64::from(percent) * 10_000)),
        ("CPUWeight", limits.cpu_weight),
        ("TasksMax", limits.tasks_max),
        ("IOWeight", limits.io_weight),
    ];
    properties.extend(numbers.into_iter().filter_map(|(name, value)| Some((name, Variant::from(value?)))));
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_those_of_the_unit() {
        let unit = include_str!("../../../../units/coracle@.service");
        let allowed: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("DeviceAllow=")).collect();
        assert_eq!(allowed, DEVICES.map(|(device, access)| format!("{device} {access}")));
        assert!(unit.contains("DevicePolicy=closed\n"));
    }

    #[test]
    fn limits_become_properties() {
        let resources = Resources { cpu_quota: Some(150), tasks_max: Some(9), ..Resources::default() };
        let scope = Scope {
            devices: &["/dev/kvm".into()],
            name: "web.scope",
            slice: "machine.slice",
            description: "Machine web",
            pid: 1,
            resources: &resources,
            bound_to: None,
        };
        let properties = properties(&scope);
        let value = |name| properties.iter().find(|(is, _)| *is == name).map(|(_, value)| value.clone());
        assert_eq!(value("CPUQuotaPerSecUSec"), Some(Variant::from(1_500_000_u64)));
        assert_eq!(value("TasksMax"), Some(Variant::from(9_u64)));
        assert_eq!(value("MemoryMax"), None);
    }
}
