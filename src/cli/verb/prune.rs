//! `coracle prune`.

use super::VerbResult;
use crate::cli::output;
use crate::control::prune;
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
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        output::text(&prune::prune(paths, self.dry_run)?)?;
        Ok(0)
    }
}
