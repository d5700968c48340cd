//! `coracle health`.

use super::VerbResult;
use crate::cli::arguments::MachineName;
use crate::control::health;
use crate::paths::Paths;
use clap::Args;

/// Check the health of a machine once; run by its timer
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct HealthArgs {
    #[command(flatten)]
    machine: MachineName,
}

impl HealthArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        health::check(paths, &self.machine.name)?;
        Ok(0)
    }
}
