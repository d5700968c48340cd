//! `coracle idle`.

use super::VerbResult;
use crate::cli::arguments::MachineName;
use crate::control::idle;
use crate::paths::Paths;
use clap::Args;

/// Stop a machine that was idle for unit.idle-stop; run by its timer
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct IdleArgs {
    #[command(flatten)]
    machine: MachineName,
}

impl IdleArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        idle::check(paths, &self.machine.name)?;
        Ok(0)
    }
}
