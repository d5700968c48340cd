//! `coracle launch`.

use super::Outcome;
use crate::cli::arguments::MachineName;
use crate::paths::Paths;
use clap::Args;

/// Create a machine; run by its unit
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Launch {
    #[command(flatten)]
    machine: MachineName,
}

impl Launch {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        crate::run::launch_unit(paths, &self.machine.name)?;
        Ok(0)
    }
}
