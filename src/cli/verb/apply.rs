//! `coracle apply`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output::{self, Align, Legend};
use crate::control::apply::{self, Effect, SettingChange};
use crate::control::resources::Act;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Apply a changed definition to a running machine
///
/// Limits, ports, traffic limits and added bind mounts change at once; all other settings are reported and
/// need a restart.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// Only show the changes
    #[arg(long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ApplyArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let options = Options::default().with_flag("dry-run", self.dry_run);
        Ask::new(AskVerb::Apply, vec![self.name.clone()], options, Vec::new())
    }

    fn act(&self) -> Act {
        if self.dry_run { Act::DryRun } else { Act::Apply }
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        self.print(apply::apply(paths, &self.name, self.act())?)
    }

    /// Prints the changes.
    pub(in crate::cli) fn print(&self, changes: Vec<SettingChange>) -> VerbResult {
        if self.json {
            output::json(&changes)?
        } else {
            print_changes(&self.name, changes, self.act())?
        }
        Ok(0)
    }
}

/// Prints a row per change, and a hint if some changes need a restart.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print_changes(name: &Name, changes: Vec<SettingChange>, act: Act) -> Result<()> {
    if changes.is_empty() {
        return output::line(&format!("machine '{name}' matches its definition"));
    }
    let needs_restart = changes.iter().any(|change| change.effect == Effect::Restart);
    let columns = ["HOW", "SETTING", "NOW", "DEFINED"].map(|name| (name, Align::Left));
    let effect = |effect| match (effect, act) {
        (Effect::Restart, _) => "restart",
        (Effect::NotEnforced, _) => "not enforced",
        (Effect::Live, Act::Apply) => "done",
        (Effect::Live, Act::DryRun) => "live",
    };
    let row = |change: SettingChange| {
        vec![effect(change.effect).to_owned(), change.key, change.now, change.defined]
    };
    let rows: Vec<Vec<String>> = changes.into_iter().map(row).collect();
    output::text(&output::table(&columns, &rows, Legend::Shown))?;
    if needs_restart {
        output::line(&format!("restart the machine to apply the other changes: coracle restart {name}"))?;
    }
    Ok(())
}
