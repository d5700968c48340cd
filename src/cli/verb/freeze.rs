//! `coracle freeze`.

use super::Outcome;
use crate::cli::arguments::MachineNames;
use crate::control::freezer;
use crate::paths::Paths;
use clap::Args;

/// Freeze all processes of machines
#[derive(Debug, Args)]
pub struct Freeze {
    #[command(flatten)]
    machines: MachineNames,
}

impl Freeze {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        freezer::freeze(paths, &self.machines.names)?;
        Ok(0)
    }
}
