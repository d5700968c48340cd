//! `coracle completions SHELL`.

use super::{Cli, Completions, output};
use crate::error::Result;
use clap::CommandFactory;

/// Prints the completions for one shell.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(wanted: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(wanted.shell, &mut Cli::command(), "coracle", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}
