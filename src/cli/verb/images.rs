//! `coracle images`.

use super::VerbResult;
use crate::cli::output::{self, Align, Legend};
use crate::control::images::{self, COLUMNS, ImageRow, UsageQuery};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// List the images of machines, with the machines that use them
#[derive(Debug, Args)]
// The verbs of machinectl(1).
#[command(aliases = ["list-images", "image-status"])]
pub struct ImagesArgs {
    /// Only the images of this name
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Option<Name>,

    /// Also show the disk space of each image, which reads all of its directories
    #[arg(long)]
    usage: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Print no header
    #[arg(long)]
    no_legend: bool,
}

impl ImagesArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let query = if self.usage { UsageQuery::Yes } else { UsageQuery::No };
        let rows = images::rows(paths, self.name.as_ref(), query)?;
        if self.json {
            output::json(&rows)?;
        } else {
            let legend = if self.no_legend { Legend::Hidden } else { Legend::Shown };
            output::text(&table(&rows, query, legend))?;
        }
        Ok(0)
    }
}

/// Returns the table, without the columns of the disk space if it was not asked for.
fn table(rows: &[ImageRow], query: UsageQuery, legend: Legend) -> String {
    let is_usage = |name: &str| matches!(name, "USAGE" | "SHARED");
    let is_shown = |name: &str| !is_usage(name) || query == UsageQuery::Yes;
    let align = |name: &'static str| (name, if is_usage(name) { Align::Right } else { Align::Left });
    let columns: Vec<_> = COLUMNS.into_iter().filter(|name| is_shown(name)).map(align).collect();
    let cells = |row: &ImageRow| {
        let cells = row.cells().into_iter().zip(COLUMNS);
        cells.filter(|(_, name)| is_shown(name)).map(|(cell, _)| cell).collect()
    };
    output::table(&columns, &rows.iter().map(cells).collect::<Vec<_>>(), legend)
}
