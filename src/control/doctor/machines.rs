//! Findings about one machine: its definition, its failure record, its unit and its tree.

use super::{Finding, FindingSeverity, guest, network, programs, trees};
use crate::control::{block_on, defined, machine_ids, resources, service, status, when};
use crate::error::{Context, Result};
use crate::host::cgroup;
use crate::host::systemd::journal::printable;
use crate::host::systemd::units;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::failure::Failure;
use crate::state::record::{Phase, Record};
use serde::{Deserialize, Serialize};
use std::io::Write;

/// The diagnosis of a machine. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Diagnosis {
    /// Its name.
    pub(crate) name: String,
    /// The state: a phase of a running machine, `dead`, `stopped` or `failed`.
    pub(crate) state: String,
    /// The findings, sorted by severity.
    pub(crate) findings: Vec<Finding>,
    /// The last failure.
    pub(crate) failure: Option<Failure>,
}

/// Diagnoses a machine.
///
/// # Errors
/// A failure record that cannot be read.
pub(crate) fn diagnose(paths: &Paths, name: &Name) -> Result<Diagnosis> {
    let record = Record::read(paths, name)?;
    let failure = Failure::read(paths, name)?;
    let mut findings = Vec::new();
    match defined(paths, name) {
        Ok(machine) => {
            findings.extend(trees::findings_of(paths, &machine));
            findings.extend(super::units::findings_of(paths, &machine));
            let unenforced = resources::unenforced(&machine.resources).into_iter();
            findings
                .extend(unenforced.map(|(_, message)| Finding::risk(message, resources::ADD_CONTROLLERS)));
        }
        Err(error) => findings.push(Finding::wrong(
            error.to_string(),
            error.hint().unwrap_or("correct the definition and run 'coracle check'"),
        )),
    }
    let state = match &record {
        Some(record) if record.is_alive() => {
            findings.extend(alive(name, record));
            findings.extend(unconfined(paths, record));
            findings.extend(
                machine_ids::shared_by(paths, name).map(|shared| Finding::risk(shared.message, shared.hint)),
            );
            findings.extend(guest::findings(record));
            findings.extend(health(paths, record));
            findings.extend(programs::of(record));
            findings.extend(record.owned_trees.iter().filter_map(|tree| trees::open(tree)));
            findings.extend(network::findings(paths, record));
            record.phase.as_str().to_owned()
        }
        Some(_) => {
            findings.push(Finding::wrong(
                "its supervisor was killed, and it is not cleaned up",
                format!("coracle cleanup {name}"),
            ));
            "dead".into()
        }
        None => "stopped".into(),
    };
    let unit = unit(paths, name, failure.is_some());
    let state = if unit.is_some() && state == "stopped" { "failed".into() } else { state };
    findings.extend(failure.as_ref().map(|failure| {
        let hint = failure.hint.clone().unwrap_or_else(|| format!("see 'coracle logs {name}'"));
        Finding::wrong(describe(failure), hint)
    }));
    findings.extend(unit.flatten());
    // A missing tree is reported by the definition and by the start.
    findings.dedup_by(|one, other| one.message == other.message);
    findings.sort_by_key(|finding| finding.severity);
    Ok(Diagnosis { name: name.to_string(), state, findings, failure })
}

/// Describes a failure in one line: time, step, uptime, cause.
fn describe(failure: &Failure) -> String {
    let after = failure.uptime_ms.map(|uptime| format!(" after {}.{} s", uptime / 1000, uptime % 1000 / 100));
    format!(
        "failed at {} ({}{}): {}",
        when(failure.time),
        failure.step,
        after.unwrap_or_default(),
        failure.cause
    )
}

/// The words of `unconfined`, each with its meaning for the host and the setting that closes it. Trees and the network
/// have findings of their own.
const UNCONFINED: [(&str, &str, &str); 5] = [
    (
        "users",
        "its user ids are those of the host: root inside is root of the host",
        "set users.private = \"pick\"",
    ),
    (
        "binds",
        "root inside acts as the owners of files of the host, through its mounts",
        "set map = \"none\" for mounts that it only reads",
    ),
    ("devices", "it has devices of the host", "remove those that it does not need from security.devices"),
    (
        "capabilities",
        "it has more capabilities than the default",
        "remove those that it does not need from security.capabilities.add",
    ),
    (
        "syscalls",
        "it has more system calls than the default",
        "remove security.nesting, or calls that it does not need from security.syscalls.allow",
    ),
];

/// Returns the notes about what a machine has beyond the defaults.
fn unconfined(paths: &Paths, record: &Record) -> Vec<Finding> {
    let words = record.unconfined_now(paths);
    let found = UNCONFINED.iter().filter(|(word, ..)| words.iter().any(|is| is == word));
    found.map(|(_, message, hint)| Finding::note(*message, *hint)).collect()
}

/// Returns the findings of the health checks.
fn health(paths: &Paths, record: &Record) -> Vec<Finding> {
    let Some(health) = status::health_of(paths, record) else { return Vec::new() };
    let unhealthy = health
        .describe()
        .filter(|_| health.healthy == Some(false))
        .map(|text| Finding::risk(format!("it is {text}"), format!("see 'coracle logs {}'", record.name)));
    let near = health.near.iter().map(|key| {
        let hint = format!("see 'coracle top {}', or set a higher limit", record.name);
        Finding::risk(format!("{key} is nearly reached"), hint)
    });
    unhealthy.into_iter().chain(near).collect()
}

/// Returns the finding for a running machine.
fn alive(name: &Name, record: &Record) -> Option<Finding> {
    let phase = record.phase;
    let is_frozen = record.payload_cgroup().is_some_and(|payload| cgroup::is_frozen(&payload));
    match phase {
        _ if is_frozen => Some(Finding::risk("it is frozen", format!("coracle thaw {name}"))),
        _ if record.is_late => Some(Finding::risk(
            match &record.waits_for {
                Some(unit) => format!("it was not ready in time: it is waiting for '{unit}'"),
                None => "it was not ready in time".to_owned(),
            },
            format!("see 'coracle logs {name}', or set a longer boot.start-timeout"),
        )),
        Phase::Starting | Phase::Booting => {
            Some(Finding::note(format!("it is {}", phase.as_str()), format!("see 'coracle status {name}'")))
        }
        _ => None,
    }
}

/// Returns `None` if the unit has not failed, else the finding, which the failure record replaces.
fn unit(paths: &Paths, name: &Name, is_recorded: bool) -> Option<Option<Finding>> {
    if !units::is_running() {
        return None;
    }
    let status = block_on(units::unit_properties(&service(paths, name))).and_then(|status| status).ok()?;
    (status.active_state == "failed").then(|| {
        (!is_recorded).then(|| {
            let hint = match status.result.as_str() {
                "timeout" => {
                    "set boot.wait = \"running\", or see the log for the unit that delays the boot".to_owned()
                }
                "oom-kill" => "raise resources.memory-max or reduce the load".to_owned(),
                "resources" => "see TasksMax= and MemoryMax= of machine.slice".to_owned(),
                _ => format!("see 'coracle logs {name}'"),
            };
            Finding::wrong(status.describe_failure(), hint)
        })
    })
}

impl Diagnosis {
    /// Writes the diagnosis as text of at most one screen.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<()> {
        let mut text = format!("{}: {}\n", self.name, self.state);
        for finding in &self.findings {
            // The problems of a definition have several lines.
            let what = printable(finding.message.as_bytes()).replace('\n', "\n        ");
            let hint = printable(finding.hint.as_bytes());
            text.push_str(&format!("{:>6}: {what}\n  hint: {hint}\n", finding.severity.as_str()));
        }
        if self.findings.is_empty() {
            text.push_str("no problems found\n");
        }
        if let Some(failure) = &self.failure {
            let list =
                |items: &[String]| items.iter().map(|item| printable(item.as_bytes())).collect::<Vec<_>>();
            if !failure.failed_units.is_empty() {
                text.push_str(&format!("failed units: {}\n", list(&failure.failed_units).join(", ")));
            }
            if !failure.console.is_empty() {
                text.push_str("last console output:\n");
                list(&failure.console).iter().for_each(|line| text.push_str(&format!("    {line}\n")));
            }
        }
        out.write_all(text.as_bytes()).context(|| "cannot write the diagnosis".to_owned())
    }

    /// Returns whether a finding is an error.
    pub(crate) fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == FindingSeverity::Wrong)
    }
}
