//! `coracle restart`.

use super::Outcome;
use crate::cli::arguments::StartArguments;
use crate::cli::output::with_progress;
use crate::control::start;
use crate::paths::Paths;
use clap::Args;

/// Restart machines, also stopped ones
#[derive(Debug, Args)]
pub struct Restart {
    #[command(flatten)]
    start: StartArguments,
}

impl Restart {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        let wait = self.start.wait();
        with_progress(|progress| start::restart(paths, &self.start.names, wait, progress))?;
        Ok(0)
    }
}
