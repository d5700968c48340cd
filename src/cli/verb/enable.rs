//! `coracle enable`.

use super::Outcome;
use crate::cli::arguments::EnableArguments;
use crate::cli::output::{self, with_progress};
use crate::control::start::{self, Wait};
use crate::paths::Paths;
use clap::Args;

/// Start machines at boot
#[derive(Debug, Args)]
pub struct Enable {
    #[command(flatten)]
    enable: EnableArguments,
}

impl Enable {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        let names = &self.enable.names;
        for change in start::enable(paths, names)? {
            output::line(&change)?;
        }
        if self.enable.now {
            with_progress(|progress| start::start(paths, names, Wait::Unit, progress))?;
        }
        Ok(0)
    }
}
