//! `coracle start`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::argument_table::TableParser;
use crate::cli::arguments::StartOptions;
use crate::cli::output::with_progress;
use crate::control::start;
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Start machines as units
#[derive(Debug, Args)]
pub struct StartArgs {
    #[command(flatten)]
    start: StartOptions,
}

impl StartArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self, paths: &Paths) -> Result<Ask> {
        let options = Options::default().with_text("wait", self.start.wait_word());
        Ask::new(AskVerb::Start, self.start.names(paths)?, options, Vec::new())
    }

    /// Reads the arguments without clap. `None` if clap must parse them.
    pub(in crate::cli) fn read(parse: TableParser<'_>) -> Option<Self> {
        Some(Self { start: StartOptions::read(parse)? })
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let wait = self.start.wait();
        let names = self.start.names(paths)?;
        with_progress(|progress| start::start(paths, &names, wait, progress))?;
        Ok(0)
    }
}
