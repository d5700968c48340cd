//! `coracle build clean`.

use super::end::{done, end_one};
use crate::cli::output;
use crate::cli::verb::VerbResult;
use crate::control::build::list;
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
