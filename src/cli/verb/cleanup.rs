//! `coracle cleanup`.

use super::VerbResult;
use crate::cli::arguments::MachineName;
use crate::paths::Paths;
use clap::Args;

/// Remove everything a stopped machine left on the host; run by its unit
#[derive(Debug, Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    machine: MachineName,
}

impl CleanupArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        crate::run::clean_up(paths, &self.machine.name)?;
        Ok(0)
    }
}
