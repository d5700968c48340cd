//! `coracle freeze`.

use super::VerbResult;
use crate::cli::arguments::MachineNames;
use crate::control::freezer;
use crate::paths::Paths;
use clap::Args;

/// Freeze all processes of machines
#[derive(Debug, Args)]
pub struct FreezeArgs {
    #[command(flatten)]
    machines: MachineNames,
}

impl FreezeArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        freezer::freeze(paths, &self.machines.names)?;
        Ok(0)
    }
}
