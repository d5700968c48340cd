//! `coracle activate`.

use super::VerbResult;
use crate::cli::arguments::MachineName;
use crate::control::activation;
use crate::paths::Paths;
use clap::Args;

/// Start a machine for an incoming connection; run by its activation unit
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct ActivateArgs {
    #[command(flatten)]
    machine: MachineName,
}

impl ActivateArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        activation::activate(paths, &self.machine.name)?;
        Ok(0)
    }
}
