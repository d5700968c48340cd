//! `coracle reboot`.

use super::VerbResult;
use crate::cli::arguments::MachineNames;
use crate::control::signal;
use crate::paths::Paths;
use clap::Args;

/// Request a reboot of the guests
#[derive(Debug, Args)]
pub struct RebootArgs {
    #[command(flatten)]
    machines: MachineNames,
}

impl RebootArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        signal::reboot(paths, &self.machines.names)?;
        Ok(0)
    }
}
