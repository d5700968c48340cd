//! `coracle terminate`.

use super::Outcome;
use crate::cli::arguments::MachineNames;
use crate::control::signal;
use crate::paths::Paths;
use clap::Args;

/// Kill machines at once, without a clean shutdown
#[derive(Debug, Args)]
pub struct Terminate {
    #[command(flatten)]
    machines: MachineNames,
}

impl Terminate {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        signal::terminate(paths, &self.machines.names)?;
        Ok(0)
    }
}
