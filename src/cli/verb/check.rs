//! `coracle check`.

use super::VerbResult;
use crate::cli::arguments::text_of;
use crate::cli::output;
use crate::config::{Problem, ProblemSeverity};
use crate::control::preflight;
use crate::error::Error;
use crate::paths::Paths;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Check definitions, and report all problems with their position
///
/// Missing requirements of a start (root, sources of mounts, devices, interfaces, free ports) are warnings.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Machines, or definitions and drop-ins with a '/' or the suffix .toml; all of this host by default
    #[arg(value_name = "NAME|FILE")]
    files: Vec<PathBuf>,

    /// Check this file, '-' for standard input, as the definition of the one machine named
    #[arg(long, value_name = "FILE", requires = "files")]
    from: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let checked = match (&self.from, self.files.as_slice()) {
            (Some(from), [name]) => preflight::check_text(paths, name, &text_of(from)?)?,
            (Some(_), _) => {
                return Err(Error::usage("--from= requires one machine")
                    .with_hint("usage: coracle check --from=FILE NAME")
                    .into());
            }
            (None, []) => preflight::check_all(paths)?,
            (None, files) => preflight::check_named(paths, files)?,
        };
        if self.json {
            output::json(&checked.problems.iter().map(as_json).collect::<Vec<_>>())?;
        } else {
            for problem in &checked.problems {
                output::line(&problem.to_string())?;
            }
        }
        let of = |severity| checked.problems.iter().filter(|problem| problem.severity == severity).count();
        let (files, errors) = (count(checked.files, "file"), of(ProblemSeverity::Error));
        if errors > 0 {
            return Err(Error::new(format!("checked {files}: {}", count(errors, "error"))).into());
        }
        if !self.json {
            let warnings = count(of(ProblemSeverity::Warning), "warning");
            output::line(&format!("checked {files}: no errors, {warnings}"))?;
        }
        Ok(0)
    }
}

/// Formats a number with its noun: `1 file`, `2 files`.
fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

fn as_json(problem: &Problem) -> Value {
    json!({
        "severity": problem.severity.as_str(),
        "file": problem.file,
        "line": problem.line,
        "column": problem.position.as_ref().map(|position| position.column),
        "message": problem.message,
        "hint": problem.hint,
    })
}
