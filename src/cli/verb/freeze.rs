//! `coracle freeze`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::MachineNames;
use crate::control::freezer;
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Freeze all processes of machines
#[derive(Debug, Args)]
pub struct FreezeArgs {
    #[command(flatten)]
    machines: MachineNames,
}

impl FreezeArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        Ask::new(AskVerb::Freeze, self.machines.names.clone(), Options::default(), Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        freezer::freeze(paths, &self.machines.names)?;
        Ok(0)
    }
}
