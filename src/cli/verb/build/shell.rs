//! `coracle build shell`.

use crate::ask::{Ask, AskVerb};
use crate::cli::arguments::EntryOptions;
use crate::cli::verb::VerbResult;
use crate::control::build::run::{self, RunOptions};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Open a login shell in a session, also after a failed command
#[derive(Debug, Args)]
pub(super) struct BuildShellArgs {
    /// The session
    #[arg(value_name = "SESSION", value_parser = Name::new)]
    session: Name,

    #[command(flatten)]
    entry: EntryOptions,
}

impl BuildShellArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// An option that only root has, or too long a word.
    pub(super) fn ask(&self) -> Result<Ask> {
        let request = self.entry.request(&self.session, &[])?;
        let words = vec![self.session.to_string()];
        Ask::new(AskVerb::SessionShell, vec![self.session.clone()], self.entry.options(&request), words)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let request = self.entry.request(&self.session, &[])?;
        Ok(run::run(paths, &request, RunOptions::default())?)
    }
}
