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
    let of = |severity| checked.problems.iter().filter(|problem| problem.severity == severity).count();
    match of(Severity::Error) {
        0 if wanted.json => Ok(()),
        0 => output::line(&format!(
            "checked {}: no errors, {}",
            count(checked.files, "file"),
            count(of(Severity::Warning), "warning")
        )),
        errors => {
            Err(Error::new(format!("checked {}: {}", count(checked.files, "file"), count(errors, "error"))))
        }
    }
}

/// `1 file`, `2 files`.
fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

fn as_json(problem: &crate::config::Problem) -> Value {
    json!({
        "severity": problem.severity.as_str(),
        "file": problem.file,
        "line": problem.line,
        "column": problem.position.as_ref().map(|position| position.column),
        "message": problem.message,
        "hint": problem.hint,
    })
}
