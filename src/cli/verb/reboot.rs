//! `coracle reboot`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::MachineNames;
use crate::control::signal;
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Request a reboot of the guests
#[derive(Debug, Args)]
pub struct RebootArgs {
    #[command(flatten)]
    machines: MachineNames,
}

impl RebootArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        Ask::new(AskVerb::Reboot, self.machines.names.clone(), Options::default(), Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        signal::reboot(paths, &self.machines.names)?;
        Ok(0)
    }
}
