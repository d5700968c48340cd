//! `coracle cleanup`.

use super::Outcome;
use crate::cli::arguments::MachineName;
use crate::paths::Paths;
use clap::Args;

/// Remove everything a stopped machine left on the host; run by its unit
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Cleanup {
    #[command(flatten)]
    machine: MachineName,
}

impl Cleanup {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        crate::run::clean_up(paths, &self.machine.name)?;
        Ok(0)
    }
}
