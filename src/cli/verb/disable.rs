//! `coracle disable`.

use super::Outcome;
use crate::cli::arguments::EnableArguments;
use crate::cli::output::{self, with_progress};
use crate::control::start;
use crate::paths::Paths;
use clap::Args;

/// Do not start machines at boot
#[derive(Debug, Args)]
pub struct Disable {
    #[command(flatten)]
    enable: EnableArguments,
}

impl Disable {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        let names = &self.enable.names;
        for change in start::disable(names)? {
            output::line(&change)?;
        }
        if self.enable.now {
            with_progress(|progress| start::stop(paths, names, progress))?;
        }
        Ok(0)
    }
}
