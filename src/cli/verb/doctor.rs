//! `coracle doctor`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output;
use crate::control::doctor;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use serde_json::json;

/// Find problems of this host or of machines, with hints
///
/// The exit status is 1 if there is a problem.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The machines; this host by default
    #[arg(value_name = "NAME", value_parser = Name::new)]
    names: Vec<Name>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        Ask::new(AskVerb::Doctor, self.names.clone(), Options::default(), Vec::new())
    }

    /// Returns whether machines are named.
    pub(in crate::cli) fn names_machines(&self) -> bool {
        !self.names.is_empty()
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let has_errors = if self.names.is_empty() { self.host(paths)? } else { self.machines(paths)? };
        Ok(u8::from(has_errors))
    }

    fn machines(&self, paths: &Paths) -> Result<bool> {
        let diagnose = |name| doctor::diagnose(paths, name);
        self.print(&self.names.iter().map(diagnose).collect::<Result<Vec<_>>>()?)
    }

    /// Prints diagnoses. Returns whether one has errors.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(in crate::cli) fn print(&self, all: &[doctor::Diagnosis]) -> Result<bool> {
        if self.json {
            output::json(&all)?;
        } else {
            let mut text = Vec::new();
            all.iter().try_for_each(|diagnosis| diagnosis.write(&mut text))?;
            output::folded(&String::from_utf8_lossy(&text))?;
        }
        Ok(all.iter().any(doctor::Diagnosis::has_errors))
    }

    fn host(&self, paths: &Paths) -> Result<bool> {
        let findings = doctor::host(paths)?;
        if self.json {
            output::json(&json!({ "findings": findings }))?;
        } else if findings.is_empty() {
            output::line("found no problem on this host")?;
        } else {
            let shown = |finding: &doctor::Finding| {
                format!("{:>6}: {}\n  hint: {}\n", finding.severity.as_str(), finding.message, finding.hint)
            };
            output::folded(&findings.iter().map(shown).collect::<String>())?;
        }
        Ok(doctor::has_errors(&findings))
    }
}
