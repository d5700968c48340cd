//! `coracle edit`.

use super::VerbResult;
use super::apply::print_changes;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::text_of;
use crate::cli::output;
use crate::control::apply;
use crate::control::delegate::{self, Delegated, Passwords};
use crate::control::edit::{self, EditResult};
use crate::control::resources::Act;
use crate::error::{Error, ErrorName};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use std::path::PathBuf;

/// The line about a text that is the old one.
const UNCHANGED: &str = "the definition was not changed";

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

    /// Take the text of this file, '-' for standard input, instead of opening an editor; one with errors is
    /// refused
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

impl EditArgs {
    /// Runs the verb as a user without the right to replace the definition, by requests to the service.
    ///
    /// # Errors
    /// Those of the editor, of the service, and of its job.
    pub(in crate::cli) fn run_as_user(&self, paths: &Paths, passwords: Passwords) -> VerbResult {
        let define = |text: &str| -> std::result::Result<Delegated, Vec<Error>> {
            let words = vec![text.to_owned()];
            let ask = Ask::new(AskVerb::Define, vec![self.name.clone()], Options::default(), words);
            delegate::run(&ask.map_err(|error| vec![error])?, passwords)
        };
        if let Some(file) = &self.from {
            output::text(&define(&text_of(file)?)?.output)?;
            return Ok(0);
        }
        let stored = edit::edit_elsewhere(paths, &self.name, &mut |text| match define(text) {
            Ok(done) => Ok(Ok(done.output)),
            Err(errors) if errors.iter().all(|error| error.name() == ErrorName::BadDefinition) => {
                Ok(Err(errors))
            }
            Err(mut errors) => Err(errors.swap_remove(0)),
        })?;
        match stored {
            Some(output) => output::text(&output)?,
            None => output::line(UNCHANGED)?,
        }
        Ok(0)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let name = &self.name;
        let edited = match &self.from {
            Some(file) => edit::define(paths, name, &text_of(file)?)?,
            None => edit::edit(paths, name)?,
        };
        let (file, warnings, is_running) = match edited {
            EditResult::Unchanged => {
                output::line(UNCHANGED)?;
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
