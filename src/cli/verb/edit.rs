//! `coracle edit`.

use super::VerbResult;
use super::apply::print_changes;
use crate::cli::output;
use crate::control::apply;
use crate::control::edit::{self, EditResult};
use crate::control::resources::Act;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Edit the definition of a machine
///
/// Opens it in the editor of EDITOR or VISUAL, and again as long as it has errors: these are comments at its
/// beginning. Leave the editor without a change to keep the old definition. Then prints the changes that
/// 'coracle apply' makes.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,
}

impl EditArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let name = &self.name;
        let (file, warnings, is_running) = match edit::edit(paths, name)? {
            EditResult::Unchanged => {
                output::line("the definition was not changed")?;
                return Ok(0);
            }
            EditResult::Stored { file, warnings, is_running } => (file, warnings, is_running),
        };
        for warning in &warnings {
            output::line(&warning.to_string())?;
        }
        output::line(&format!("stored in {}", file.display()))?;
        if is_running {
            print_changes(name, apply::apply(paths, name, Act::DryRun)?, Act::DryRun)?;
        }
        Ok(0)
    }
}
