//! `coracle activate`.

use super::Outcome;
use crate::cli::arguments::MachineName;
use crate::control::activation;
use crate::paths::Paths;
use clap::Args;

/// Start a machine for an incoming connection; run by its activation unit
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Activate {
    #[command(flatten)]
    machine: MachineName,
}

impl Activate {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        activation::activate(paths, &self.machine.name)?;
        Ok(0)
    }
}
