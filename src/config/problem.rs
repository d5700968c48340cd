//! Problems of a definition, shown with file, line, column, the line itself, a caret below it and the hint.
//! Created by `toml`, `definition_files`, `check` and the features.

use super::setting::Origin;
use crate::error::Error;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The maximum number of characters of a line that are shown.
const LINE_SHOWN: usize = 160;

/// The severity of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProblemSeverity {
    /// The machine does not start.
    Error,
    /// The machine starts, but a setting is probably a mistake.
    Warning,
}

impl ProblemSeverity {
    /// Returns the word for output and JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A problem of a definition or of options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its severity.
    pub(crate) severity: ProblemSeverity,
    /// Its file; `None` if the problem is not in a file.
    pub(crate) file: Option<PathBuf>,
    /// Its line, counted from 1.
    pub(crate) line: Option<usize>,
    /// Its position on that line, if known.
    pub(crate) position: Option<Position>,
    /// The message.
    pub(crate) message: String,
    /// The hint, if there is one.
    pub(crate) hint: Option<String>,
}

/// A position in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// The line, counted from 1.
    pub(crate) line: usize,
    /// The column, counted from 1 in characters.
    pub(crate) column: usize,
    /// The line itself and the caret below it; empty for a line with a secret.
    picture: String,
}

/// The text of a file, indexed by lines.
pub(super) struct SourceText<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> SourceText<'a> {
    /// Indexes the lines of `text`.
    pub(crate) fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// Returns the line of the byte `at`, counted from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).max(1)
    }

    /// Returns the position of the bytes `span`.
    pub(crate) fn position(&self, span: Range<usize>) -> Position {
        let floor = |at: usize| self.text.floor_char_boundary(at.min(self.text.len()));
        let (start, end) = (floor(span.start), floor(span.end));
        let line = self.line(start);
        let from = self.starts.get(line - 1).copied().unwrap_or_default();
        let text = self.text[from..].lines().next().unwrap_or_default();
        let column = self.text[from..start].chars().count() + 1;
        let marked = self.text.get(start..end.min(from + text.len())).unwrap_or_default();
        let picture = if self.is_secret(line) {
            String::new()
        } else {
            picture(line, text, column, marked.chars().count().max(1))
        };
        Position { line, column, picture }
    }

    /// Returns whether a line is in the table of credentials. The text may have errors of syntax.
    fn is_secret(&self, line: usize) -> bool {
        let lines: Vec<&str> = self.text.lines().take(line).map(str::trim_start).collect();
        let header = lines.iter().rfind(|line| line.starts_with('['));
        header.into_iter().chain(lines.last()).any(|line| line.contains("credentials"))
    }
}

/// Formats the line and the caret below it, without control characters: a file cannot move the cursor of the
/// terminal.
fn picture(line: usize, text: &str, column: usize, length: usize) -> String {
    let is_long = text.chars().nth(LINE_SHOWN).is_some();
    let skipped = if is_long { column.saturating_sub(LINE_SHOWN / 2) } else { 0 };
    let safe = |letter: char| match letter {
        '\t' => ' ',
        letter if letter.is_control() => '\u{fffd}',
        letter => letter,
    };
    let shown: String = text.chars().skip(skipped).take(LINE_SHOWN).map(safe).collect();
    let gutter = line.to_string();
    let blank = " ".repeat(gutter.len());
    let before = column - 1 - skipped.min(column - 1);
    let carets = "^".repeat(length.min(LINE_SHOWN.saturating_sub(before)).max(1));
    format!("  {gutter} | {shown}\n  {blank} | {}{carets}", " ".repeat(before))
}

impl Problem {
    /// Creates a problem of `file` as a whole, or without a file.
    pub(crate) fn new(file: Option<&Path>, error: &Error) -> Self {
        Self {
            severity: ProblemSeverity::Error,
            file: file.map(Path::to_owned),
            line: None,
            position: None,
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        }
    }

    /// Sets the position in the file.
    #[must_use]
    pub(crate) fn at(self, position: Position) -> Self {
        Self { line: Some(position.line), position: Some(position), ..self }
    }

    /// Creates a problem of a value with this origin.
    pub(crate) fn at_origin(origin: &Origin, error: &Error) -> Self {
        let message = error.to_string();
        let (file, line, message) = match origin {
            Origin::File { path, line } => (Some(path.clone()), Some(*line), message),
            Origin::Bundle { path, pointer } => (Some(path.clone()), None, format!("{pointer}: {message}")),
            Origin::Flag(flag) => (None, None, format!("'{flag}': {message}")),
            Origin::Default => (None, None, message),
        };
        let (severity, hint) = (ProblemSeverity::Error, error.hint().map(str::to_owned));
        Self { severity, file, line, position: None, message, hint }
    }

    /// Creates a warning about a value with this origin.
    pub(crate) fn warning(origin: &Origin, message: String) -> Self {
        Self::at_origin(origin, &Error::new(message)).into_warning()
    }

    /// Sets the severity to a warning.
    #[must_use]
    pub(crate) fn into_warning(self) -> Self {
        Self { severity: ProblemSeverity::Warning, ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
        }
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(position) = &self.position {
            write!(f, "{}:", position.column)?;
        }
        if self.file.is_some() {
            f.write_str(" ")?;
        }
        if self.severity == ProblemSeverity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(position) = self.position.as_ref().filter(|position| !position.picture.is_empty()) {
            write!(f, "\n{}", position.picture)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Combines `problems` into one error; `context` is its first line.
pub(crate) fn combined(context: &str, problems: &[Problem]) -> Error {
    if let [Problem { file: None, message, hint, .. }] = problems {
        let error = Error::new(message.clone()).context(context);
        return match hint {
            Some(hint) => error.with_hint(hint.clone()),
            None => error,
        };
    }
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        more => format!("{more} problems"),
    };
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Error::new(format!("{context}: {count}\n{}", shown.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_counted_in_characters_and_shown_without_escapes() {
        let text = "a = 1\nä = \"\u{1b}[2J\"\r\n";
        let source = SourceText::new(text);
        let start = text.find('"').unwrap();
        let position = source.position(start..start + 3);
        assert_eq!((position.line, position.column), (2, 5));
        assert_eq!(position.picture, "  2 | ä = \"\u{fffd}[2J\"\n    |     ^^^");
        for start in 0..40 {
            for end in 0..40 {
                source.position(start..end);
            }
        }
        assert!(SourceText::new(&"x".repeat(100_000)).position(50_000..90_000).picture.len() < 500);
        assert_eq!(SourceText::new("").position(3..9).line, 1);
    }

    #[test]
    fn lines_with_credentials_are_not_shown() {
        for text in [
            "[credentials.set]\nx = 'hunter2",
            "[credentials]\nset.x = 'hunter2'",
            "credentials.set.x = 'hunter2'",
            "[credentials.set]\nx = '''\nhunter2",
        ] {
            assert_eq!(SourceText::new(text).position(text.len() - 3..text.len()).picture, "", "{text}");
        }
        assert_ne!(SourceText::new("[credentials]\n[root]\nx = 1").position(24..25).picture, "");
    }
}
