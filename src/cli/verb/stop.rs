//! `coracle stop`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::argument_table::{Slot, TableParser, positional};
use crate::cli::arguments::MachineNames;
use crate::cli::output::with_progress;
use crate::control::start;
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Shut down machines cleanly
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    machines: MachineNames,
}

impl StopArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        Ask::new(AskVerb::Stop, self.machines.names.clone(), Options::default(), Vec::new())
    }

    /// Reads the arguments without clap. `None` if clap must parse them.
    pub(in crate::cli) fn read(parse: TableParser<'_>) -> Option<Self> {
        let mut names = Vec::new();
        parse(vec![positional(Slot::Names(&mut names))])?;
        (!names.is_empty()).then_some(Self { machines: MachineNames { names } })
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        with_progress(|progress| start::stop(paths, &self.machines.names, progress))?;
        Ok(0)
    }
}
