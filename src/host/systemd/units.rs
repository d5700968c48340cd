//! systemd as service manager: starts and stops units and waits for their jobs, creates scopes, reads unit
//! properties. Called by the control verbs and by the supervisor, inside one `block_on`. Must not know
//! machines, only units.

pub(crate) mod devices;
mod jobs;
pub(crate) mod properties;
pub(crate) mod resources;
mod scope;
pub(crate) mod transient;

pub(crate) use jobs::{JobAction, Until, run};
pub(crate) use scope::{Scope, start_scope, stop_empty_scope};

use super::bus;
use crate::error::{Error, Result};
use crate::paths::running_systemd;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;
use zbus::proxy::CacheProperties;
use zbus::{OwnedObjectPath, OwnedVariant, Variant, proxy};

/// The bus name of systemd.
const SYSTEMD: &str = "org.freedesktop.systemd1";
/// The timeout of a call: a reload reads every unit file again.
const CALL_TIMEOUT: Duration = Duration::from_secs(90);

/// A unit as listed by systemd: name, description, load, active and sub state, followed unit, path, and id,
/// type and path of its job.
pub(super) type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait SystemdManager {
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
    fn subscribe(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<ListedUnit>>;
    fn get_job(&self, id: u32) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload(&self) -> zbus::Result<()>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    fn unref_unit(&self, name: &str) -> zbus::Result<()>;
    fn thaw_unit(&self, name: &str) -> zbus::Result<()>;
    fn set_unit_properties(
        &self,
        name: &str,
        runtime: bool,
        properties: &[(&str, Variant<'_>)],
    ) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        auxiliary: &[(&str, Vec<(&str, Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    fn disable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
    ) -> zbus::Result<Vec<(String, String, String)>>;
}

/// The state of a unit, alive or dead. Numbers are `None` if systemd does not account for them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct UnitStatus {
    /// `LoadState`: `loaded`, `not-found`, `masked`, `error`, …
    pub(crate) load_state: String,
    /// `ActiveState`: `active`, `activating`, `failed`, `inactive`, …
    pub(crate) active_state: String,
    /// `SubState`: `running`, `dead`, …
    pub(crate) sub_state: String,
    /// `UnitFileState`: `enabled`, `disabled`, …; empty for a unit without a file.
    pub(crate) file_state: String,
    /// `Result` of the last run: `success`, `exit-code`, `signal`, `oom-kill`, `timeout`, …
    pub(crate) result: String,
    /// `ExecMainCode`, a `CLD_…` value (waitid(2)); 0 while the main process runs.
    pub(crate) exec_main_code: i32,
    /// `ExecMainStatus`: exit status, or signal number.
    pub(crate) exec_main_status: i32,
    /// `StatusText`, the last `STATUS=` of the unit.
    pub(crate) status_text: String,
    /// `MainPID`; 0 if there is none.
    pub(crate) main_pid: u32,
    /// `ControlGroup`, a path below the mount of the cgroup hierarchy; empty for a dead unit.
    pub(crate) control_group: String,
    /// `MemoryCurrent`, bytes.
    pub(crate) memory_current: Option<u64>,
    /// `TasksCurrent`.
    pub(crate) tasks_current: Option<u64>,
    /// `ActiveEnterTimestamp`, microseconds since the epoch; 0 for never.
    pub(crate) active_enter_timestamp: u64,
}

impl UnitStatus {
    /// Returns why the unit is not running, in one line, as far as known to systemd.
    pub(crate) fn describe_failure(&self) -> String {
        if self.load_state == "not-found" {
            return "the unit does not exist".into();
        }
        let mut text = match self.result.as_str() {
            "" | "success" => format!("it is {} ({})", self.active_state, self.sub_state),
            "exit-code" => format!("exit status {}", self.exec_main_status),
            "signal" | "core-dump" => format!("killed by signal {}", self.exec_main_status),
            "oom-kill" => "it was killed by the out-of-memory killer".into(),
            "timeout" => "it took too long".into(),
            "resources" => "systemd lacked memory, tasks or descriptors for it".into(),
            "protocol" => "it ended before it was up".into(),
            "watchdog" => "its supervisor gave no sign of life in time".into(),
            "start-limit-hit" => "it was started too often in too short a time".into(),
            other => other.to_owned(),
        };
        match self.status_text.strip_prefix("failed: ") {
            Some(reason) => text = format!("{text}: {reason}"),
            None if self.status_text.is_empty() => {}
            None => text = format!("{text}; its last status: {}", self.status_text),
        }
        text
    }
}

/// Returns whether PID 1 of this host is systemd (sd_booted(3)).
pub(crate) fn is_running() -> bool {
    static IS_RUNNING: OnceLock<bool> = OnceLock::new();
    *IS_RUNNING.get_or_init(|| running_systemd("system").is_dir())
}

/// Returns the version of the running systemd, for example `257.7-1`.
///
/// # Errors
/// systemd does not answer.
pub(crate) async fn version() -> Result<String> {
    let connection = bus::connect(bus::PATIENCE).await?;
    let refused = |error| bus::failure(error).context("cannot read the version of systemd");
    manager(&connection).await?.version().await.map_err(refused)
}

/// Reloads the unit files (`systemctl daemon-reload`).
///
/// # Errors
/// systemd does not reply, or refuses.
pub(crate) async fn reload() -> Result<()> {
    let connection = bus::connect(CALL_TIMEOUT).await?;
    let manager = manager(&connection).await?;
    manager
        .reload()
        .await
        .map_err(|error| bus::failure(error).context("cannot reload the unit files of systemd"))
}

/// Resets the failure of a unit (`systemctl reset-failed`).
///
/// # Errors
/// systemd does not reply, or refuses.
pub(crate) async fn reset_failed(unit: &str) -> Result<()> {
    let connection = bus::connect(CALL_TIMEOUT).await?;
    let refused = |error| bus::failure(error).context(format!("cannot reset unit '{unit}'"));
    manager(&connection).await?.reset_failed_unit(unit).await.map_err(refused)
}

/// Thaws a unit frozen by systemd.
///
/// # Errors
/// systemd does not reply, or refuses.
pub(crate) async fn thaw(unit: &str) -> Result<()> {
    let connection = bus::connect(CALL_TIMEOUT).await?;
    let refused = |error| bus::failure(error).context(format!("cannot thaw unit '{unit}'"));
    manager(&connection).await?.thaw_unit(unit).await.map_err(refused)
}

/// Enables units at boot, and reloads. Returns the changes, one line per symbolic link.
///
/// # Errors
/// systemd refuses.
pub(crate) async fn enable(units: &[String]) -> Result<Vec<String>> {
    let connection = bus::connect(CALL_TIMEOUT).await?;
    let manager = manager(&connection).await?;
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    let refused = |error| bus::failure(error).context(format!("cannot enable {}", quoted(units)));
    let (_, changes) = manager.enable_unit_files(&names, false, false).await.map_err(refused)?;
    manager.reload().await.map_err(refused)?;
    Ok(describe_changes(&changes))
}

/// Disables units at boot, and reloads. Returns the changes.
///
/// # Errors
/// systemd refuses.
pub(crate) async fn disable(units: &[String]) -> Result<Vec<String>> {
    let connection = bus::connect(CALL_TIMEOUT).await?;
    let manager = manager(&connection).await?;
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    let refused = |error| bus::failure(error).context(format!("cannot disable {}", quoted(units)));
    let changes = manager.disable_unit_files(&names, false).await.map_err(refused)?;
    manager.reload().await.map_err(refused)?;
    Ok(describe_changes(&changes))
}

/// Returns the state of a unit; a missing one has the `load_state` `not-found`.
///
/// # Errors
/// systemd does not reply.
pub(crate) async fn unit_properties(unit: &str) -> Result<UnitStatus> {
    let connection = bus::connect(bus::PATIENCE).await?;
    status_of(&connection, &manager(&connection).await?, unit).await
}

/// Returns the `ActiveState` of all loaded units that match one of some patterns.
///
/// # Errors
/// systemd does not reply.
pub(crate) async fn unit_states(patterns: &[&str]) -> Result<HashMap<String, String>> {
    let connection = bus::connect(bus::PATIENCE).await?;
    let listing = |error| bus::failure(error).context("cannot list the units of systemd");
    let listed = manager(&connection).await?.list_units_by_patterns(&[], patterns).await.map_err(listing)?;
    Ok(listed.into_iter().map(|(name, _, _, active, ..)| (name, active)).collect())
}

/// Implements [`unit_properties`], over an open connection.
async fn status_of(
    connection: &zbus::Connection,
    manager: &SystemdManagerProxy<'_>,
    unit: &str,
) -> Result<UnitStatus> {
    let reading = |error| bus::failure(error).context(format!("cannot read the state of unit '{unit}'"));
    let path = manager.load_unit(unit).await.map_err(reading)?;
    Ok(status_from(&all_properties(connection, &path).await.map_err(reading)?))
}

/// Selects the fields of [`UnitStatus`] from all properties of a unit.
fn status_from(properties: &HashMap<String, OwnedVariant>) -> UnitStatus {
    let string = |name| text(properties, name).unwrap_or_default();
    let number = |name| properties.get(name).and_then(|value| value.downcast_ref::<u64>().ok());
    // systemd represents "not counted" as the greatest number.
    let counted = |name| number(name).filter(|count| *count != u64::MAX);
    UnitStatus {
        load_state: string("LoadState"),
        active_state: string("ActiveState"),
        sub_state: string("SubState"),
        file_state: string("UnitFileState"),
        result: string("Result"),
        exec_main_code: self::number(properties, "ExecMainCode").unwrap_or(0),
        exec_main_status: self::number(properties, "ExecMainStatus").unwrap_or(0),
        status_text: string("StatusText"),
        main_pid: properties.get("MainPID").and_then(|value| value.downcast_ref::<u32>().ok()).unwrap_or(0),
        control_group: string("ControlGroup"),
        memory_current: counted("MemoryCurrent"),
        tasks_current: counted("TasksCurrent"),
        active_enter_timestamp: number("ActiveEnterTimestamp").unwrap_or(0),
    }
}

/// Returns a signed number property.
fn number(properties: &HashMap<String, OwnedVariant>, name: &str) -> Option<i32> {
    properties.get(name).and_then(|value| value.downcast_ref::<i32>().ok())
}

/// Returns a text property.
fn text(properties: &HashMap<String, OwnedVariant>, name: &str) -> Option<String> {
    properties.get(name).and_then(|value| value.downcast_ref::<&str>().ok()).map(str::to_owned)
}

/// Returns all properties of a unit. For systemd the empty interface name stands for all interfaces; zbus
/// proxies refuse it as invalid.
async fn all_properties(
    connection: &zbus::Connection,
    path: &OwnedObjectPath,
) -> zbus::Result<HashMap<String, OwnedVariant>> {
    let interface = Some("org.freedesktop.DBus.Properties");
    let reply = connection.call_method(Some(SYSTEMD), path, interface, "GetAll", &"").await?;
    reply.body().deserialize()
}

/// Returns the proxy of systemd's manager object.
async fn manager(connection: &zbus::Connection) -> Result<SystemdManagerProxy<'static>> {
    let builder = SystemdManagerProxy::builder(connection).cache_properties(CacheProperties::No);
    builder.build().await.map_err(bus::failure)
}

/// Returns changes of unit files as lines.
fn describe_changes(changes: &[(String, String, String)]) -> Vec<String> {
    let line = |(kind, file, target): &(String, String, String)| match kind.as_str() {
        "symlink" => format!("created link '{file}' to '{target}'"),
        "unlink" => format!("removed link '{file}'"),
        other => format!("{other} '{file}'"),
    };
    changes.iter().map(line).collect()
}

/// Returns unit names for a message.
fn quoted(units: &[String]) -> String {
    units.iter().map(|unit| format!("'{unit}'")).collect::<Vec<_>>().join(", ")
}

/// Returns the error for an unexpected end of the bus connection.
fn lost() -> Error {
    Error::new("lost the connection to systemd while waiting for it")
        .with_hint("see 'systemctl list-jobs' for what it still does")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_become_a_status() {
        let value = |value: Variant<'static>| value.try_into_owned().unwrap();
        let properties = HashMap::from([
            ("ActiveState".to_owned(), value(Variant::from("failed"))),
            ("Result".to_owned(), value(Variant::from("exit-code"))),
            ("ExecMainStatus".to_owned(), value(Variant::from(125_i32))),
            ("StatusText".to_owned(), value(Variant::from("failed: no init"))),
            ("MemoryCurrent".to_owned(), value(Variant::from(u64::MAX))),
            ("TasksCurrent".to_owned(), value(Variant::from(3_u64))),
            ("MainPID".to_owned(), value(Variant::from(7_u32))),
        ]);
        let status = status_from(&properties);
        assert_eq!((status.memory_current, status.tasks_current, status.main_pid), (None, Some(3), 7));
        assert_eq!(status.describe_failure(), "exit status 125: no init");
    }
}
