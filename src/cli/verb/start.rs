//! `coracle start`.

use super::Outcome;
use crate::cli::arguments::StartArguments;
use crate::cli::output::with_progress;
use crate::control::start;
use crate::paths::Paths;
use clap::Args;

/// Start machines as units
#[derive(Debug, Args)]
pub struct Start {
    #[command(flatten)]
    start: StartArguments,
}

impl Start {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        let wait = self.start.wait();
        with_progress(|progress| start::start(paths, &self.start.names, wait, progress))?;
        Ok(0)
    }
}
