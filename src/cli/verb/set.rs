//! `coracle set`.

use super::VerbResult;
use super::apply::print_changes;
use super::provision_options::ProvisionOptions;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output;
use crate::config::drop_in::Persistence;
use crate::control::apply::{self, SetResult};
use crate::control::provision;
use crate::control::resources::Act;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Change settings of a machine, also while it is running
///
/// The change is written to a drop-in of the definition. Limits, ports, traffic limits and bind mounts
/// (mount=SOURCE:TARGET:ro) change at once; all other settings are reported and need a restart.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// Settings of the definition, for example memory-max=512M; an empty value removes the setting from the
    /// drop-in; for lists KEY+=VALUE adds a value to the drop-in, KEY-=VALUE removes one, KEY=A,B replaces
    /// all
    #[arg(value_name = "KEY=VALUE", required_unless_present_any = ProvisionOptions::NAMES)]
    changes: Vec<String>,

    /// Keep the change until the next reboot of the host only
    #[arg(long)]
    runtime: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// First settings, of a stopped machine.
    #[command(flatten)]
    first: ProvisionOptions,
}

impl SetArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// Too many changes, or an option that only root has.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        self.first.refuse_without_root()?;
        let options = Options::default().with_flag("runtime", self.runtime);
        Ask::new(AskVerb::Set, vec![self.name.clone()], options, self.changes.clone())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let settings = self.first.settings();
        let keep = if self.runtime { Persistence::UntilReboot } else { Persistence::Always };
        if !settings.is_empty() {
            apply::check(paths, &self.name, &self.changes, keep)?;
            provision::provision(paths, &self.name, &settings)?;
        }
        if self.changes.is_empty() {
            return Ok(0);
        }
        self.print(apply::set(paths, &self.name, &self.changes, keep)?)
    }

    /// Prints the result.
    pub(in crate::cli) fn print(&self, result: SetResult) -> VerbResult {
        match result {
            result if self.json => output::json(&result)?,
            SetResult::Stored(file) => output::line(&format!("stored in '{}'", file.display()))?,
            SetResult::Applied(changes) => print_changes(&self.name, changes, Act::Apply)?,
        }
        Ok(0)
    }
}
