//! `coracle names`, for shell completions.

use super::VerbResult;
use crate::cli::output;
use crate::control;
use crate::paths::Paths;
use clap::Args;

/// Print the names of all machines; run by shell completions
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct NamesArgs {}

impl NamesArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let names = control::names(paths)?;
        output::text(&names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
        Ok(0)
    }
}
