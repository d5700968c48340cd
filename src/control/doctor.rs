//! `coracle doctor`: what is wrong with this host, or with one machine, and the hint of each. It
//! only looks. Called by `cli`; each file below knows one part of the host.

mod cgroups;
mod ids;
mod kernel;
mod leftovers;
mod machine;
mod network;
mod programs;
mod services;
mod trees;

pub use machine::{Diagnosis, diagnose};

use super::defined;
use crate::config;
use crate::error::Result;
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::paths::Paths;
use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Machines do not run, or not as they should.
    Wrong,
    /// They run, but something that is asked for is not in force, or will run out.
    Risk,
    /// Worth knowing; nothing needs to be done.
    Note,
}

impl Severity {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Risk => "risk",
            Self::Note => "note",
        }
    }
}

/// Something that was found. Serialised as it is for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is so, in one line.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl Finding {
    /// Something that keeps machines from running.
    pub fn wrong(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity: Severity::Wrong, message: message.into(), hint: hint.into() }
    }

    /// Something that will, or that weakens them.
    pub fn risk(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity: Severity::Risk, ..Self::wrong(message, hint) }
    }

    /// Something worth knowing.
    pub fn note(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::wrong(message, hint) }
    }
}

/// Examines the host and the trees of all defined machines. The worst finding comes first.
///
/// # Errors
/// A directory of definitions that cannot be read.
pub fn host(paths: &Paths) -> Result<Vec<Finding>> {
    let names = config::names(paths)?;
    let machines: Vec<Machine> = names.iter().filter_map(|name| defined(paths, name).ok()).collect();
    let names: Vec<&Name> = machines.iter().map(|machine| &machine.name).collect();
    let mut findings = kernel::findings();
    findings.extend(cgroups::findings());
    findings.extend(services::findings(paths));
    findings.extend(ids::findings(paths, &names));
    findings.extend(trees::findings(paths, &machines));
    findings.extend(leftovers::findings(paths));
    findings.extend(programs::findings(paths));
    findings.sort_by_key(|finding| finding.severity);
    Ok(findings)
}

/// Whether something is wrong, as the exit status says.
pub fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Wrong)
}

/// A file of one number.
fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
