//! `coracle doctor`: findings about this host or one machine, each with a hint. It changes nothing. Called by
//! `cli`; each file of the folder inspects one part of the host.

mod cgroups;
mod guest;
mod id_ranges;
mod kernel;
mod leftovers;
mod machines;
mod network;
mod programs;
mod services;
mod trees;
mod units;

pub(crate) use machines::{Diagnosis, diagnose};

use super::{defined, machine_ids};
use crate::config;
use crate::error::Result;
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::paths::Paths;
use serde::{Deserialize, Serialize};

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FindingSeverity {
    /// Machines do not run, or not as defined.
    Wrong,
    /// Machines run, but a requested feature is not in effect, or a resource will run out.
    Risk,
    /// Information without a need to act.
    Note,
}

impl FindingSeverity {
    /// Returns the severity as text.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Risk => "risk",
            Self::Note => "note",
        }
    }
}

/// A finding. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Finding {
    /// Its severity.
    pub(crate) severity: FindingSeverity,
    /// Its description, one line.
    pub(crate) message: String,
    /// The solution, in the imperative.
    pub(crate) hint: String,
}

impl Finding {
    /// Creates a finding about an error that prevents machines from running.
    pub(crate) fn wrong(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity: FindingSeverity::Wrong, message: message.into(), hint: hint.into() }
    }

    /// Creates a finding about a risk.
    pub(crate) fn risk(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity: FindingSeverity::Risk, ..Self::wrong(message, hint) }
    }

    /// Creates a finding with information only.
    pub(crate) fn note(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity: FindingSeverity::Note, ..Self::wrong(message, hint) }
    }
}

/// Inspects the host and the trees of all defined machines. The findings are sorted by severity.
///
/// # Errors
/// A directory of definitions that cannot be read.
pub(crate) fn host(paths: &Paths) -> Result<Vec<Finding>> {
    let names = config::names(paths)?;
    let machines: Vec<Machine> = names.iter().filter_map(|name| defined(paths, name).ok()).collect();
    let names: Vec<&Name> = machines.iter().map(|machine| &machine.name).collect();
    let mut findings = kernel::findings(paths);
    findings.extend(cgroups::findings());
    findings.extend(services::findings(paths));
    findings.extend(id_ranges::findings(paths, &names));
    findings.extend(trees::findings(paths, &machines));
    findings.extend(leftovers::findings(paths));
    findings.extend(programs::findings(paths));
    let shared = machine_ids::shared(paths).into_iter();
    findings.extend(shared.map(|shared| Finding::risk(shared.message, shared.hint)));
    findings.sort_by_key(|finding| finding.severity);
    Ok(findings)
}

/// Returns whether a finding is an error, which determines the exit status.
pub(crate) fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == FindingSeverity::Wrong)
}
