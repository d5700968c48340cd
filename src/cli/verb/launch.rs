//! `coracle launch`.

use super::VerbResult;
use crate::cli::arguments::MachineName;
use crate::paths::Paths;
use clap::Args;

/// Create a machine; run by its unit
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct LaunchArgs {
    #[command(flatten)]
    machine: MachineName,
}

impl LaunchArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        crate::run::launch_unit(paths, &self.machine.name)?;
        Ok(0)
    }
}
