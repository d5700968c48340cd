//! `coracle enable`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::EnableOptions;
use crate::cli::output::{self, with_progress};
use crate::control::start::{self, StartWait};
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Start machines at boot
#[derive(Debug, Args)]
pub struct EnableArgs {
    #[command(flatten)]
    enable: EnableOptions,
}

impl EnableArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let options = Options::default().with_flag("now", self.enable.now);
        Ask::new(AskVerb::Enable, self.enable.names.clone(), options, Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let names = &self.enable.names;
        for change in start::enable(paths, names)? {
            output::line(&change)?;
        }
        if self.enable.now {
            with_progress(|progress| start::start(paths, names, StartWait::Unit, progress))?;
        }
        Ok(0)
    }
}
