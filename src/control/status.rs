//! `coracle status`: the state of one machine, the status of its unit, and the last lines of its log; after a
//! failure the cause.

mod traffic;
mod waiting_for;

pub(super) use waiting_for::{has_unread_signals, populated_units, waiting_for};

use super::list::{MachineSummary, span};
use super::{block_on, defined, logs, resources, service, when};
use crate::error::{Context, Result};
use crate::host::cgroup;
use crate::host::systemd::journal::printable;
use crate::host::systemd::units;
use crate::host::systemd::units::UnitStatus;
use crate::machine::Machine;
use crate::machine::id128::Id128;
use crate::machine::name::Name;
use crate::machine::{size, unit_name};
use crate::paths::Paths;
use crate::state::failure::Failure;
use crate::state::health::HealthState;
use crate::state::record::Record;
use serde::Serialize;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use traffic::Traffic;

/// The number of shown log lines.
const LINES: u32 = 10;

/// The output of `status`. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Status {
    /// The row of the list.
    pub(crate) machine: MachineSummary,
    /// Process id of the supervisor, if it is running.
    pub(crate) supervisor: Option<u32>,
    /// The installed program, if it is newer than the running supervisor.
    pub(crate) newer_program: Option<PathBuf>,
    /// Machine id.
    pub(crate) machine_id: Option<Id128>,
    /// The reason why machined does not know the running machine.
    pub(crate) unregistered: Option<String>,
    /// Name of the host's end of its link.
    pub(crate) host_interface: Option<String>,
    /// Its zone.
    pub(crate) zone: Option<String>,
    /// Ports of the host that are forwarded to it.
    pub(crate) ports: Vec<String>,
    /// Ports at which systemd listens for the stopped machine: the first connection starts it.
    pub(crate) on_demand: Vec<String>,
    /// Traffic over its link, if it is running.
    pub(crate) traffic: Option<Traffic>,
    /// The status of its unit. `None` without systemd.
    pub(crate) unit: Option<Unit>,
    /// Units or processes that delay its stop.
    pub(crate) waiting_for: Option<String>,
    /// The failure of its last start, until a successful start.
    pub(crate) failure: Option<Failure>,
    /// The newer version of its image that did not boot, and why.
    pub(crate) fallback: Option<String>,
    /// The result of its health checks, if it has any.
    pub(crate) health: Option<HealthState>,
    /// The limit of its memory. `None` if it is not running, or its definition has none.
    pub(crate) memory_limit: Option<MemoryLimit>,
    /// Processes killed by the out-of-memory killer since the start.
    pub(crate) out_of_memory_kills: u64,
    /// The last lines of the log.
    pub(crate) log: Vec<String>,
}

/// A limit of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct MemoryLimit {
    /// `resources.memory-max`, bytes.
    pub(crate) bytes: u64,
    /// Whether the host has the controller for it.
    pub(crate) enforced: bool,
}

/// The status of a machine's unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Unit {
    /// `ActiveState`.
    pub(crate) active_state: String,
    /// `SubState`.
    pub(crate) sub_state: String,
    /// `UnitFileState`: whether it starts at boot.
    pub(crate) file_state: String,
    /// `Result` of the last run.
    pub(crate) result: String,
    /// `StatusText`: the status that the supervisor reports.
    pub(crate) status_text: String,
    /// The failure of a failed unit.
    pub(crate) failure: Option<String>,
}

/// Collects the status of a machine.
///
/// # Errors
/// An invalid or missing definition of a machine without state record and unit.
pub(crate) fn collect(paths: &Paths, name: &Name) -> Result<Status> {
    let record = Record::read(paths, name)?;
    let unit_name = record.as_ref().map_or_else(|| Some(service(paths, name)), |record| record.unit.clone());
    let unit = unit_name.as_deref().and_then(read_unit);
    let state = unit.as_ref().map(|unit| unit.active_state.as_str());
    let is_known = record.is_some() || state.is_some_and(|state| state != "inactive");
    let defined = match defined(paths, name) {
        Ok(machine) => Some(machine),
        Err(_) if is_known => None,
        Err(error) => return Err(error),
    };
    let mut machine = match &record {
        Some(record) => MachineSummary::of_record_and_guest(paths, record),
        None => MachineSummary::of_unit(name, service(paths, name), state),
    };
    let root = defined.as_ref().map(|machine| machine.root.path().to_owned());
    machine.root = machine.root.or(root);
    let log = logs::tail(paths, name, machine.root.as_deref(), LINES).unwrap_or_else(|error| {
        log::warn!("{error}, ignoring");
        Vec::new()
    });
    let alive = record.as_ref().filter(|record| record.is_alive());
    let stopped = defined.as_ref().filter(|_| alive.is_none());
    Ok(Status {
        supervisor: alive.map(|record| record.supervisor),
        newer_program: alive.and_then(|record| record.replaced_program().map(Path::to_owned)),
        machine_id: record.as_ref().and_then(|record| record.machine_id),
        unregistered: alive.filter(|record| !record.registered).map(|_| unregistered(name)),
        out_of_memory_kills: alive
            .and_then(|record| record.cgroup.as_deref())
            .map_or(0, cgroup::out_of_memory_kills),
        host_interface: alive.and_then(|record| record.host_interface.clone()),
        zone: alive.and_then(|record| record.zone.as_ref().map(ToString::to_string)),
        ports: alive.into_iter().flat_map(Record::ports).map(ToString::to_string).collect(),
        on_demand: stopped.map(listened_at).unwrap_or_default(),
        traffic: alive.and_then(Traffic::of),
        unit: unit.map(|unit| Unit::from(&unit)),
        machine,
        fallback: alive.and_then(|record| record.fallback.clone()),
        waiting_for: record.as_ref().and_then(waiting_for),
        memory_limit: alive.and(defined.as_ref()).and_then(memory_limit),
        health: alive.and_then(|record| health_of(paths, record)),
        failure: Failure::read(paths, name).unwrap_or_else(|error| {
            log::warn!("{error}, ignoring");
            None
        }),
        log,
    })
}

impl Status {
    /// Writes the status as text.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<()> {
        let mut text = format!("{}: {}\n", self.machine.name, self.machine.state);
        for (key, value) in self.lines() {
            text.push_str(&format!("{key:>12}: {value}\n"));
        }
        if !self.log.is_empty() {
            text.push('\n');
            self.log.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        }
        out.write_all(text.as_bytes()).context(|| "cannot write the status".to_owned())
    }

    /// Describes the processes killed by the out-of-memory killer. `None` without one.
    fn killed(&self) -> Option<String> {
        match self.out_of_memory_kills {
            0 => None,
            1 => Some("1 process, by the out-of-memory killer".to_owned()),
            more => Some(format!("{more} processes, by the out-of-memory killer")),
        }
    }

    /// Returns the lines with a value.
    fn lines(&self) -> Vec<(&'static str, String)> {
        let machine = &self.machine;
        let number = |number: u32| number.to_string();
        let words = |words: Vec<String>| (!words.is_empty()).then(|| words.join(", "));
        let unit = machine.unit.as_ref().map(|name| match &self.unit {
            Some(unit) => format!("{name} ({}, {}; {})", unit.active_state, unit.sub_state, unit.file_state),
            None => name.clone(),
        });
        let since = machine.started.filter(|started| *started > 0).map(|started| match machine.uptime {
            Some(uptime) => format!("{}, {} ago", when(started), span(uptime)),
            None => when(started),
        });
        let failure = self.unit.as_ref().and_then(|unit| unit.failure.clone());
        // A failure contains the last status text.
        let message =
            self.unit.as_ref().filter(|unit| unit.failure.is_none() && !unit.status_text.is_empty());
        let message = message.map(|unit| unit.status_text.clone());
        let hint = self.failure.as_ref().and_then(|failure| failure.hint.clone());
        let uptime = self.failure.as_ref().and_then(|failure| {
            let uptime = failure.uptime_ms?;
            Some(format!("{}.{} s, {}", uptime / 1000, uptime % 1000 / 100, failure.step))
        });
        let units = self.failure.as_ref().map(|failure| failure.failed_units.clone());
        let lines = [
            ("failure", failure),
            ("hint", hint),
            ("uptime", uptime),
            ("failed units", units.and_then(words)),
            ("message", message),
            ("fallback", self.fallback.clone()),
            ("guest", machine.guest_trouble()),
            ("health", self.health.as_ref().and_then(HealthState::describe)),
            ("near limit", self.health.as_ref().and_then(|health| words(health.near.clone()))),
            ("stopping", self.waiting_for.as_ref().map(|names| format!("waiting for {names}"))),
            ("since", since),
            ("machined", self.unregistered.clone()),
            ("init", machine.init.clone()),
            ("leader", machine.leader.map(number)),
            ("supervisor", self.supervisor.map(number)),
            ("program", self.newer_program.as_deref().map(|program| outdated(machine, program))),
            ("addresses", words(machine.addresses.iter().map(IpAddr::to_string).collect())),
            ("link", self.host_interface.clone()),
            ("zone", self.zone.clone()),
            ("ports", words(self.ports.clone())),
            ("starts by", words(self.on_demand.clone())),
            (
                "traffic",
                self.traffic
                    .map(|it| format!("{} in, {} out", size::rounded(it.received), size::rounded(it.sent))),
            ),
            ("dropped", self.traffic.and_then(|it| it.dropped())),
            ("memory", self.memory()),
            ("killed", self.killed()),
            ("tasks", machine.tasks.map(|tasks| tasks.to_string())),
            ("unit", unit),
            ("root", machine.root.as_ref().map(|root| root.display().to_string())),
            ("machine id", self.machine_id.map(|id| id.to_string())),
            ("unconfined", words(machine.unconfined.clone())),
        ];
        // The guest controls some of the texts.
        lines.into_iter().filter_map(|(key, value)| Some((key, printable(value?.as_bytes())))).collect()
    }

    /// Describes the used memory and its limit.
    fn memory(&self) -> Option<String> {
        let used = self.machine.memory.map(size::rounded);
        let Some(limit) = self.memory_limit else { return used };
        let missing = if limit.enforced { "" } else { ", not enforced" };
        let used = used.map(|used| format!("{used} ")).unwrap_or_default();
        Some(format!("{used}of {}{missing}", size::exact(limit.bytes)))
    }
}

impl From<&UnitStatus> for Unit {
    fn from(status: &UnitStatus) -> Self {
        Self {
            active_state: status.active_state.clone(),
            sub_state: status.sub_state.clone(),
            file_state: status.file_state.clone(),
            result: status.result.clone(),
            status_text: status.status_text.clone(),
            failure: (status.active_state == "failed").then(|| status.describe_failure()),
        }
    }
}

/// Returns the limit of the memory of a definition.
fn memory_limit(machine: &Machine) -> Option<MemoryLimit> {
    let bytes = machine.resources.memory_max.filter(|bytes| *bytes != u64::MAX)?;
    let is_missing = |(key, _): &(&str, String)| *key == "resources.memory-max";
    Some(MemoryLimit { bytes, enforced: !resources::unenforced(&machine.resources).iter().any(is_missing) })
}

/// Returns the result of the health checks of a running machine.
pub(super) fn health_of(paths: &Paths, record: &Record) -> Option<HealthState> {
    let state = HealthState::read(paths, &record.name, record.leader?);
    (state.describe().is_some() || !state.near.is_empty()).then_some(state)
}

/// Describes why machined does not know a running machine, and the effect.
fn unregistered(name: &Name) -> String {
    let reason = if name.is_registrable() { "" } else { ", because its name contains '_'" };
    format!("does not know it{reason}: machinectl and 'systemctl -M' do not find it")
}

/// Describes the update to the installed program for a machine with an older one.
fn outdated(machine: &MachineSummary, program: &Path) -> String {
    let is_service = machine.unit.as_ref().is_some_and(|unit| unit_name::is_service(unit));
    let way = if is_service { "a reboot or a restart" } else { "the next run" };
    format!("older than '{}': {way} starts the newer one", program.display())
}

/// Returns the ports at which systemd listens for a machine.
fn listened_at(machine: &Machine) -> Vec<String> {
    let ports = &machine.network.on_demand;
    let listens = !ports.is_empty()
        && read_unit(&unit_name::on_demand_socket(&machine.name))
            .is_some_and(|socket| socket.active_state == "active");
    ports.iter().filter(|_| listens).map(ToString::to_string).collect()
}

/// Reads the status of a unit. `None` without systemd, or if the unit is unknown.
fn read_unit(unit: &str) -> Option<UnitStatus> {
    if !units::is_running() {
        return None;
    }
    match block_on(units::unit_properties(unit)).and_then(|status| status) {
        Ok(status) => Some(status).filter(|status| status.load_state != "not-found"),
        Err(error) => {
            log::warn!("{error}, ignoring");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_machine_shows_its_failure() {
        let name = Name::new("web").unwrap();
        let unit = UnitStatus {
            active_state: "failed".into(),
            sub_state: "failed".into(),
            file_state: "disabled".into(),
            result: "exit-code".into(),
            exec_main_status: 125,
            status_text: "failed: no init in '/srv\u{1b}[2J'".into(),
            ..UnitStatus::default()
        };
        let status = Status {
            machine: MachineSummary::of_unit(&name, "coracle@web.service".into(), Some("failed")),
            supervisor: None,
            newer_program: None,
            machine_id: None,
            unregistered: None,
            host_interface: None,
            fallback: None,
            out_of_memory_kills: 0,
            zone: None,
            ports: Vec::new(),
            on_demand: vec!["8080:80".into()],
            traffic: None,
            unit: Some(Unit::from(&unit)),
            waiting_for: None,
            memory_limit: None,
            health: None,
            failure: None,
            log: vec!["a line".into()],
        };
        let status_of = |name| Some(unregistered(&Name::new(name).unwrap()));
        let running = Status { unregistered: status_of("web_1"), ..status.clone() };
        let line =
            "does not know it, because its name contains '_': machinectl and 'systemctl -M' do not find it";
        assert!(running.lines().contains(&("machined", line.to_owned())), "{:?}", running.lines());
        let mut out = Vec::new();
        status.write(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "web: failed\n\
             \u{20}    failure: exit status 125: no init in '/srv'\n\
             \u{20}  starts by: 8080:80\n\
             \u{20}       unit: coracle@web.service (failed, failed; disabled)\n\
             \na line\n"
        );
    }
}
