//! `coracle terminate`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::MachineNames;
use crate::control::signal;
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Kill machines at once, without a clean shutdown
#[derive(Debug, Args)]
pub struct TerminateArgs {
    #[command(flatten)]
    machines: MachineNames,
}

impl TerminateArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        Ask::new(AskVerb::Terminate, self.machines.names.clone(), Options::default(), Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        signal::terminate(paths, &self.machines.names)?;
        Ok(0)
    }
}
