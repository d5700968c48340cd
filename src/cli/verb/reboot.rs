//! `coracle reboot`.

use super::Outcome;
use crate::cli::arguments::MachineNames;
use crate::control::signal;
use crate::paths::Paths;
use clap::Args;

/// Request a reboot of the guests
#[derive(Debug, Args)]
pub struct Reboot {
    #[command(flatten)]
    machines: MachineNames,
}

impl Reboot {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        signal::reboot(paths, &self.machines.names)?;
        Ok(0)
    }
}
