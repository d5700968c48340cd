//! `coracle snapshot`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output::{self, Align, Legend, with_progress};
use crate::control::snapshots::{self, COLUMNS, SnapshotRow, Tag};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Save the state of an image, also while its machine runs
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// List the snapshots of the image
    #[arg(long, conflicts_with_all = ["remove", "tag"])]
    list: bool,

    /// Remove a snapshot
    #[arg(long, requires = "tag")]
    remove: bool,

    /// The image
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// The snapshot; without it, the time is its tag
    #[arg(value_name = "TAG")]
    tag: Option<Tag>,

    /// Print JSON
    #[arg(long, conflicts_with = "remove")]
    json: bool,

    /// Print no header
    #[arg(long, requires = "list")]
    no_legend: bool,
}

impl SnapshotArgs {
    /// Returns whether the verb changes something.
    pub(super) fn is_request(&self) -> bool {
        !self.list
    }

    /// Returns the request for the service. `None` for the list.
    ///
    /// # Errors
    /// Too long a word.
    pub(in crate::cli) fn ask(&self) -> Result<Option<Ask>> {
        if self.list {
            return Ok(None);
        }
        let verb = if self.remove { AskVerb::RemoveSnapshot } else { AskVerb::Snapshot };
        let words = [self.name.to_string()].into_iter().chain(self.tag.as_ref().map(ToString::to_string));
        let options = Options::default().with_flag("json", self.json);
        Ask::new(verb, vec![self.name.clone()], options, words.collect()).map(Some)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        if self.list {
            let rows = snapshots::list(paths, &self.name)?;
            if self.json {
                output::json(&rows)?;
            } else {
                let legend = if self.no_legend { Legend::Hidden } else { Legend::Shown };
                let columns = COLUMNS.map(|name| (name, Align::Left));
                let cells: Vec<_> = rows.iter().map(SnapshotRow::cells).collect();
                output::text(&output::table(&columns, &cells, legend))?;
            }
            return Ok(0);
        }
        if let (true, Some(tag)) = (self.remove, &self.tag) {
            snapshots::remove(paths, &self.name, tag)?;
            output::line(&format!("{}: removed snapshot '{tag}'", self.name))?;
            return Ok(0);
        }
        let report = with_progress(|progress| snapshots::take(paths, &self.name, self.tag, progress))?;
        output::report(&report, self.json, &report.text())?;
        Ok(0)
    }
}
