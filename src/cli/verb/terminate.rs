//! `coracle terminate`.

use super::VerbResult;
use crate::cli::arguments::MachineNames;
use crate::control::signal;
use crate::paths::Paths;
use clap::Args;

/// Kill machines at once, without a clean shutdown
#[derive(Debug, Args)]
pub struct TerminateArgs {
    #[command(flatten)]
    machines: MachineNames,
}

impl TerminateArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        signal::terminate(paths, &self.machines.names)?;
        Ok(0)
    }
}
