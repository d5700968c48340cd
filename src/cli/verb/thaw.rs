//! `coracle thaw`.

use super::VerbResult;
use crate::cli::arguments::MachineNames;
use crate::control::freezer;
use crate::paths::Paths;
use clap::Args;

/// Resume frozen machines
#[derive(Debug, Args)]
pub struct ThawArgs {
    #[command(flatten)]
    machines: MachineNames,
}

impl ThawArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        freezer::thaw(paths, &self.machines.names)?;
        Ok(0)
    }
}
