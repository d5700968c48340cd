//! `coracle poweroff`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::MachineNames;
use crate::control::signal;
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Request a power-off of the guests
#[derive(Debug, Args)]
pub struct PoweroffArgs {
    #[command(flatten)]
    machines: MachineNames,
}

impl PoweroffArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        Ask::new(AskVerb::Poweroff, self.machines.names.clone(), Options::default(), Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        signal::poweroff(paths, &self.machines.names)?;
        Ok(0)
    }
}
