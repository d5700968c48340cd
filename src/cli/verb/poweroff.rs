//! `coracle poweroff`.

use super::VerbResult;
use crate::cli::arguments::MachineNames;
use crate::control::signal;
use crate::paths::Paths;
use clap::Args;

/// Request a power-off of the guests
#[derive(Debug, Args)]
pub struct PoweroffArgs {
    #[command(flatten)]
    machines: MachineNames,
}

impl PoweroffArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        signal::poweroff(paths, &self.machines.names)?;
        Ok(0)
    }
}
