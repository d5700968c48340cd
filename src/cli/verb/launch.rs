//! `coracle launch`.

use super::VerbResult;
use crate::cli::argument_table::{Slot, TableParser, positional};
use crate::cli::arguments::MachineName;
use crate::paths::Paths;
use clap::Args;

/// Create a machine; run by its unit
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct LaunchArgs {
    #[command(flatten)]
    machine: MachineName,
}

impl LaunchArgs {
    /// Reads the arguments without clap. `None` if clap must parse them.
    pub(in crate::cli) fn read(parse: TableParser<'_>) -> Option<Self> {
        let mut name = None;
        parse(vec![positional(Slot::Name(&mut name))])?;
        Some(Self { machine: MachineName { name: name? } })
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        crate::run::launch_unit(paths, &self.machine.name)?;
        Ok(0)
    }
}
