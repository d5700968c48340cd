//! `coracle disable`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::EnableOptions;
use crate::cli::output::{self, with_progress};
use crate::control::start;
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Do not start machines at boot
#[derive(Debug, Args)]
pub struct DisableArgs {
    #[command(flatten)]
    enable: EnableOptions,
}

impl DisableArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let options = Options::default().with_flag("now", self.enable.now);
        Ask::new(AskVerb::Disable, self.enable.names.clone(), options, Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let names = &self.enable.names;
        let (changes, known) = start::disable(paths, names)?;
        for change in changes {
            output::line(&change)?;
        }
        if self.enable.now {
            with_progress(|progress| start::stop(paths, names, progress))?;
        }
        known?;
        Ok(0)
    }
}
