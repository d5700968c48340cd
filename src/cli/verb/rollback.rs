//! `coracle rollback`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output::{self, with_progress};
use crate::control::snapshots::{self, Present, Tag};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Restore a snapshot of an image that is not in use
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The image
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// The snapshot; without it, the newest one
    #[arg(value_name = "TAG")]
    tag: Option<Tag>,

    /// Discard the present state instead of saving it as a snapshot
    #[arg(long)]
    discard: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl RollbackArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// Too long a word.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let words = [self.name.to_string()].into_iter().chain(self.tag.as_ref().map(ToString::to_string));
        let options = Options::default().with_flag("discard", self.discard).with_flag("json", self.json);
        Ask::new(AskVerb::Rollback, vec![self.name.clone()], options, words.collect())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let present = if self.discard { Present::Discarded } else { Present::Kept };
        let report = with_progress(|progress| {
            snapshots::rollback(paths, &self.name, self.tag.as_ref(), present, progress)
        })?;
        output::report(&report, self.json, &report.text())?;
        Ok(0)
    }
}
