//! `coracle thaw`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::MachineNames;
use crate::control::freezer;
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Resume frozen machines
#[derive(Debug, Args)]
pub struct ThawArgs {
    #[command(flatten)]
    machines: MachineNames,
}

impl ThawArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        Ask::new(AskVerb::Thaw, self.machines.names.clone(), Options::default(), Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        freezer::thaw(paths, &self.machines.names)?;
        Ok(0)
    }
}
