//! `coracle build begin`.

use super::session_options::SessionOptions;
use crate::cli::output;
use crate::cli::verb::VerbResult;
use crate::paths::Paths;
use crate::run::session;
use clap::Args;

/// Begin a session and print its name
#[derive(Debug, Args)]
pub(super) struct BeginArgs {
    #[command(flatten)]
    options: SessionOptions,
}

impl BeginArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let name = session::begin(paths, self.options.request()?)?;
        output::line(name.as_str())?;
        Ok(0)
    }
}
