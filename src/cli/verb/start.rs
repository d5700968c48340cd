//! `coracle start`.

use super::VerbResult;
use crate::cli::arguments::StartOptions;
use crate::cli::output::with_progress;
use crate::control::start;
use crate::paths::Paths;
use clap::Args;

/// Start machines as units
#[derive(Debug, Args)]
pub struct StartArgs {
    #[command(flatten)]
    start: StartOptions,
}

impl StartArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let wait = self.start.wait();
        let names = self.start.names(paths)?;
        with_progress(|progress| start::start(paths, &names, wait, progress))?;
        Ok(0)
    }
}
