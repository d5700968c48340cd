//! `coracle names`, for shell completions.

use super::VerbResult;
use crate::cli::output;
use crate::control::candidates;
use crate::paths::Paths;
use clap::Args;

/// Print the names of machines, or other candidates for a word; run by shell completions
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct NamesArgs {
    /// The verb and the arguments before the word to complete; all machines by default
    #[arg(value_name = "WORD", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl NamesArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let candidates = candidates::after(paths, &self.words)?;
        output::text(&candidates.iter().map(|name| format!("{name}\n")).collect::<String>())?;
        Ok(0)
    }
}
