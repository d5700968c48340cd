//! `coracle build list`.

use crate::cli::output::{self, Align, Legend};
use crate::cli::verb::VerbResult;
use crate::control::build::list::{self, COLUMNS, SessionRow};
use crate::paths::Paths;
use clap::Args;

/// List the sessions
#[derive(Debug, Args)]
pub(super) struct BuildListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Print no header
    #[arg(long, conflicts_with = "json")]
    no_legend: bool,
}

impl BuildListArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let rows = list::list(paths);
        if self.json {
            output::json(&rows)?;
        } else {
            let legend = if self.no_legend { Legend::Hidden } else { Legend::Shown };
            let cells: Vec<_> = rows.iter().map(SessionRow::cells).collect();
            output::text(&output::table(&COLUMNS.map(|name| (name, Align::Left)), &cells, legend))?;
        }
        Ok(0)
    }
}
