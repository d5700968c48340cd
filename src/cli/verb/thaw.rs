//! `coracle thaw`.

use super::Outcome;
use crate::cli::arguments::MachineNames;
use crate::control::freezer;
use crate::paths::Paths;
use clap::Args;

/// Resume frozen machines
#[derive(Debug, Args)]
pub struct Thaw {
    #[command(flatten)]
    machines: MachineNames,
}

impl Thaw {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        freezer::thaw(paths, &self.machines.names)?;
        Ok(0)
    }
}
