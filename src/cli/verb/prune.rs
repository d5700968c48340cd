//! `coracle prune`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output;
use crate::control::prune;
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Remove layers that no image uses, and what killed commands have left
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Only list the layers
    #[arg(long)]
    dry_run: bool,
}

impl PruneArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// Too long a word.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let options = Options::default().with_flag("dry-run", self.dry_run);
        Ask::new(AskVerb::Prune, Vec::new(), options, Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        output::text(&prune::prune(paths, self.dry_run)?)?;
        Ok(0)
    }
}
