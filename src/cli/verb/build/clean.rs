//! `coracle build clean`.

use super::end::{done, end_one};
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output;
use crate::cli::verb::VerbResult;
use crate::control::build::list;
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Remove dead sessions and what killed ones have left
#[derive(Debug, Args)]
pub(super) struct CleanArgs {
    /// End the running sessions too
    #[arg(long)]
    all: bool,
}

impl CleanArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// An option that only root has, or too long a word.
    pub(super) fn ask(&self) -> Result<Ask> {
        let options = Options::default().with_flag("all", self.all);
        Ask::new(AskVerb::SessionClean, Vec::new(), options, Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let mut failures = Vec::new();
        for row in list::list(paths).iter().filter(|row| self.all || row.state == "dead") {
            match end_one(paths, &row.session) {
                Ok(summary) => output::line(&summary.text())?,
                Err(error) => failures.push(error),
            }
        }
        crate::run::clean_up_killed(paths);
        done(failures)
    }
}
