//! `coracle build shell`.

use crate::cli::arguments::EntryOptions;
use crate::cli::verb::VerbResult;
use crate::control::build::run::{self, RunOptions};
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
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let request = self.entry.request(&self.session, &[])?;
        Ok(run::run(paths, &request, RunOptions::default())?)
    }
}
