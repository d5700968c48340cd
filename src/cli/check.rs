//! `coracle check`: every problem of definitions, with its place.

use super::{Check, output};
use crate::config::{Severity, check};
use crate::error::{Error, Result};
use crate::paths::Paths;
use serde_json::{Value, json};

/// Checks the files named, or all definitions of the host.
///
/// # Errors
/// There are problems of which a machine would not start.
pub fn run(paths: &Paths, wanted: &Check) -> Result<()> {
    let checked =
        if wanted.files.is_empty() { check::all(paths)? } else { check::files(paths, &wanted.files) };
    if wanted.json {
        output::json(&checked.problems.iter().map(as_json).collect::<Vec<_>>())?;
    } else {
        for problem in &checked.problems {
            output::line(&problem.to_string())?;
        }
    }
    let errors = checked.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    match errors {
        0 if wanted.json => Ok(()),
        0 => output::line(&match checked.files {
            1 => "1 file, no problem that keeps a machine from starting".to_owned(),
            files => format!("{files} files, no problem that keeps a machine from starting"),
        }),
        1 => Err(Error::new("1 problem found")),
        many => Err(Error::new(format!("{many} problems found"))),
    }
}

fn as_json(problem: &crate::config::Problem) -> Value {
    json!({
        "severity": problem.severity.as_str(),
        "file": problem.file,
        "line": problem.place.as_ref().map(|place| place.line),
        "column": problem.place.as_ref().map(|place| place.column),
        "message": problem.message,
        "hint": problem.hint,
    })
}
