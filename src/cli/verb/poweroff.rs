//! `coracle poweroff`.

use super::Outcome;
use crate::cli::arguments::MachineNames;
use crate::control::signal;
use crate::paths::Paths;
use clap::Args;

/// Request a power-off of the guests
#[derive(Debug, Args)]
pub struct Poweroff {
    #[command(flatten)]
    machines: MachineNames,
}

impl Poweroff {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        signal::poweroff(paths, &self.machines.names)?;
        Ok(0)
    }
}
