//! `coracle list`: running machines from their state records and cgroups, and on request all defined
//! machines.

use super::{block_on, guest_addresses, guest_states, now, start};
use crate::config;
use crate::error::Result;
use crate::host::cgroup;
use crate::host::systemd::guest_manager::GuestState;
use crate::host::systemd::units;
use crate::image::quota;
use crate::machine::name::Name;
use crate::machine::size;
use crate::machine::unit_name::ServiceTemplate;
use crate::paths::Paths;
use crate::state::record::Record;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A machine in the list. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct MachineSummary {
    /// Its name.
    pub(crate) name: String,
    /// `starting` (also a guest that is not ready in time), `booting`, `running`, `stopping` or `frozen`.
    /// `failed`, `stopped`, or `dead` after the supervisor was killed and before the cleanup.
    pub(crate) state: String,
    /// The state that its systemd reports. `None` for other inits, and if it does not answer.
    pub(crate) guest: Option<GuestState>,
    /// The kind of its init, or `command`.
    pub(crate) init: Option<String>,
    /// Process id of PID 1 in the host's view.
    pub(crate) leader: Option<u32>,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether they are not from Coracle, but those that the guest has now, for example by DHCP.
    pub(crate) dynamic: bool,
    /// Memory of its cgroup, bytes. `None` if the kernel does not count it.
    pub(crate) memory: Option<u64>,
    /// Tasks of its cgroup, or processes if the kernel does not count tasks.
    pub(crate) tasks: Option<u64>,
    /// Disk space of the files that it changes, bytes. `None` without a limit.
    pub(crate) disk: Option<u64>,
    /// The limit of that space, bytes.
    pub(crate) disk_max: Option<u64>,
    /// Time of the start, microseconds since the epoch.
    pub(crate) started: Option<u64>,
    /// Time since the start, seconds.
    pub(crate) uptime: Option<u64>,
    /// Its unit, also of a stopped machine.
    pub(crate) unit: Option<String>,
    /// Its root directory.
    pub(crate) root: Option<PathBuf>,
    /// Whether it starts at boot. `None` if the list has running machines only.
    pub(crate) enabled: Option<bool>,
    /// Features that are not confined.
    pub(crate) unconfined: Vec<String>,
    /// Whether its supervisor is older than the installed program.
    pub(crate) outdated: bool,
}

/// The columns of the table.
pub(crate) const COLUMNS: [&str; 11] = [
    "NAME",
    "STATE",
    "BOOT",
    "INIT",
    "LEADER",
    "ADDRESSES",
    "MEMORY",
    "DISK",
    "TASKS",
    "UPTIME",
    "UNCONFINED",
];

impl MachineSummary {
    /// Returns the cells of [`COLUMNS`].
    pub(crate) fn cells(&self) -> Vec<String> {
        let joined = |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(" ") };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        vec![
            self.name.clone(),
            self.shown_state().to_owned(),
            or_dash(self.enabled.map(|enabled| if enabled { "enabled" } else { "disabled" }.to_owned())),
            or_dash(self.init.clone()),
            or_dash(self.leader.map(|leader| leader.to_string())),
            joined(self.addresses.iter().map(IpAddr::to_string).collect()),
            or_dash(self.memory.map(size::rounded)),
            or_dash(self.disk.map(size::rounded)),
            or_dash(self.tasks.map(|tasks| tasks.to_string())),
            or_dash(self.uptime.map(span)),
            joined(self.unconfined.clone()),
        ]
    }

    /// Returns the state for tables: that of a running guest with failed units is `degraded` or `maintenance`.
    pub(crate) fn shown_state(&self) -> &str {
        match &self.guest {
            Some(guest)
                if self.state == "running" && ["degraded", "maintenance"].contains(&&*guest.state) =>
            {
                &guest.state
            }
            _ => &self.state,
        }
    }

    /// Describes the state of a guest of systemd that is not `running`.
    pub(super) fn guest_trouble(&self) -> Option<String> {
        self.guest.as_ref().filter(|guest| guest.state != "running").map(GuestState::describe)
    }

    /// Returns one address and the number of further ones, for narrow tables.
    pub(crate) fn main_address(&self) -> String {
        let first = self.addresses.iter().find(|address| address.is_ipv4()).or(self.addresses.first());
        match (first, self.addresses.len()) {
            (None, _) => "-".into(),
            (Some(first), 1) => first.to_string(),
            (Some(first), all) => format!("{first} +{}", all - 1),
        }
    }

    /// Creates the row of a machine with a record, and asks its guest.
    pub(super) fn of_record_and_guest(paths: &Paths, record: &Record) -> Self {
        let guest = guest_states::of(&[record]).pop().flatten();
        Self { guest, ..Self::of_record(paths, record) }
    }

    /// Creates the row of a machine with a record.
    pub(super) fn of_record(paths: &Paths, record: &Record) -> Self {
        let is_alive = record.is_alive();
        let cgroup = record.cgroup.as_deref().filter(|_| is_alive);
        let dynamic = Some(record).filter(|_| is_alive).and_then(guest_addresses::of);
        let dynamic = dynamic.filter(|addresses| !addresses.is_empty());
        let disk = quota::usage(&record.root);
        Self {
            name: record.name.to_string(),
            state: match record.payload_cgroup() {
                Some(payload) if is_alive && cgroup::is_frozen(&payload) => "frozen",
                _ if is_alive && record.is_late => "starting",
                _ if is_alive => record.phase.as_str(),
                _ => "dead",
            }
            .into(),
            guest: None,
            init: record.init.map(|init| init.to_string()),
            leader: record.leader.filter(|_| is_alive),
            dynamic: dynamic.is_some(),
            addresses: dynamic.unwrap_or_else(|| record.addresses.clone()),
            memory: cgroup.and_then(|cgroup| read_number(cgroup.join("memory.current"))),
            tasks: cgroup
                .and_then(|cgroup| read_number(cgroup.join("pids.current")).or_else(|| processes(cgroup))),
            disk: disk.map(|usage| usage.bytes),
            disk_max: disk.and_then(|usage| usage.limit),
            started: Some(record.started),
            uptime: is_alive.then(|| now().saturating_sub(record.started) / 1_000_000),
            unit: record.unit.clone(),
            root: Some(record.root.clone()),
            enabled: None,
            unconfined: record.unconfined_now(paths),
            outdated: is_alive && record.replaced_program().is_some(),
        }
    }

    /// Creates the row of a machine without a record from the `ActiveState` of its unit.
    pub(super) fn of_unit(name: &Name, unit: String, active_state: Option<&str>) -> Self {
        let state = match active_state {
            Some("failed") => "failed",
            // Its record is not written yet.
            Some("activating" | "active" | "reloading") => "starting",
            Some("deactivating") => "stopping",
            _ => "stopped",
        };
        Self {
            name: name.to_string(),
            state: state.into(),
            guest: None,
            init: None,
            leader: None,
            addresses: Vec::new(),
            dynamic: false,
            memory: None,
            disk: None,
            disk_max: None,
            tasks: None,
            started: None,
            uptime: None,
            unit: Some(unit),
            root: None,
            enabled: None,
            unconfined: Vec::new(),
            outdated: false,
        }
    }
}

/// The machines that a list includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    /// Machines with a state record.
    Recorded,
    /// Also defined machines without a state record.
    Defined,
}

/// Returns the rows of the list, sorted by name.
///
/// # Errors
/// A directory of definitions that cannot be read.
pub(crate) fn rows(paths: &Paths, include: Include) -> Result<Vec<MachineSummary>> {
    let others = if include == Include::Defined { config::names(paths)? } else { BTreeSet::new() };
    let records = Record::all(paths);
    let guests = guest_states::of(&records.iter().collect::<Vec<_>>());
    let mut rows: Vec<MachineSummary> = records
        .iter()
        .zip(guests)
        .map(|(record, guest)| MachineSummary { guest, ..MachineSummary::of_record(paths, record) })
        .collect();
    let rest: Vec<Name> =
        others.into_iter().filter(|name| rows.iter().all(|row| row.name != name.as_str())).collect();
    let states = if rest.is_empty() { HashMap::new() } else { unit_states() };
    rows.extend(rest.iter().map(|name| {
        let unit = config::service_template(paths, name).service(name);
        let state = states.get(&unit).map(String::as_str);
        MachineSummary::of_unit(name, unit, state)
    }));
    if include == Include::Defined {
        for row in &mut rows {
            row.enabled = Name::new(&row.name).ok().map(|name| start::is_enabled(paths, &name));
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

/// Returns the states of the units of all machines; empty without systemd.
fn unit_states() -> HashMap<String, String> {
    if !units::is_running() {
        return HashMap::new();
    }
    match block_on(units::unit_states(&ServiceTemplate::ALL.map(ServiceTemplate::pattern)))
        .and_then(|states| states)
    {
        Ok(states) => states,
        Err(error) => {
            log::warn!("{error}, ignoring");
            HashMap::new()
        }
    }
}

/// Reads a file with one number.
pub(super) fn read_number(file: impl AsRef<Path>) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Returns the number of processes in a cgroup and its descendants.
fn processes(cgroup: &Path) -> Option<u64> {
    cgroup.is_dir().then(|| u64::try_from(crate::host::cgroup::processes(cgroup).len()).ok()).flatten()
}

/// Formats seconds in their two largest units: `3d 4h`.
pub(super) fn span(seconds: u64) -> String {
    let parts =
        [(seconds / 86400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(parts.len() - 1);
    let shown = parts[first..].iter().take(2).filter(|(count, _)| *count > 0 || seconds == 0);
    shown.map(|(count, unit)| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::init::{Init, PayloadKind};

    #[test]
    fn uptimes_have_two_units() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (3600, "1h"), (3661, "1h 1min"), (273_600, "3d 4h")]
        {
            assert_eq!(span(seconds), expected);
        }
    }

    #[test]
    fn running_left_over_and_defined_machines_are_listed_by_name() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let cgroup = root.path().join("cgroup");
        std::fs::create_dir_all(cgroup.join(cgroup::PAYLOAD)).unwrap();
        std::fs::write(cgroup.join("memory.current"), "2048\n").unwrap();
        std::fs::write(cgroup.join("cgroup.procs"), "").unwrap();
        std::fs::write(cgroup.join(cgroup::PAYLOAD).join("cgroup.procs"), "1\n2\n").unwrap();
        let record = Record {
            phase: crate::state::record::Phase::Running,
            supervisor: std::process::id(),
            supervisor_start: crate::host::procfs::start_time(std::process::id()).unwrap(),
            started: now() - 61_000_000,
            init: Some(PayloadKind::Init(Init::Systemd)),
            leader: Some(7),
            cgroup: Some(cgroup),
            addresses: vec!["10.177.0.2".parse().unwrap()],
            ..Record::new(Name::new("web").unwrap())
        };
        for record in [record.clone(), Record { name: Name::new("gone").unwrap(), supervisor: 0, ..record }] {
            std::fs::create_dir_all(paths.machine(&record.name)).unwrap();
            record.write(&paths).unwrap();
        }
        std::fs::create_dir_all(paths.images().join("able")).unwrap();
        std::fs::create_dir_all(paths.images().join("web")).unwrap();
        let rows = rows(&paths, Include::Defined).unwrap();
        let states: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.state.as_str())).collect();
        assert_eq!(states, [("able", "stopped"), ("gone", "dead"), ("web", "running")]);
        assert_eq!(
            rows[2].cells(),
            ["web", "running", "disabled", "systemd", "7", "10.177.0.2", "2.0K", "-", "2", "1min 1s", "-"]
        );
        assert_eq!((rows[1].leader, rows[1].tasks), (None, None));
        assert_eq!(rows[2].cells().len(), COLUMNS.len());
    }
}
