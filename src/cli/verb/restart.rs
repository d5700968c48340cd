//! `coracle restart`.

use super::VerbResult;
use crate::cli::arguments::StartOptions;
use crate::cli::output::with_progress;
use crate::control::start;
use crate::paths::Paths;
use clap::Args;

/// Restart machines, also stopped ones
#[derive(Debug, Args)]
pub struct RestartArgs {
    #[command(flatten)]
    start: StartOptions,
}

impl RestartArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let wait = self.start.wait();
        let names = self.start.names(paths)?;
        with_progress(|progress| start::restart(paths, &names, wait, progress))?;
        Ok(0)
    }
}
