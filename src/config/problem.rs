//! What is wrong in a definition, with its place, and how it is shown: file, line, column, the
//! line itself, a caret below it and the hint. Made by `toml`, `files` and `resolve`.

use super::layer::Origin;
use crate::error::Error;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How many characters of a line are shown at most.
const LINE_SHOWN: usize = 160;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The machine does not start.
    Error,
    /// It starts, and probably not as meant.
    Warning,
}

impl Severity {
    /// The word shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file it is in, where it is in one.
    pub file: Option<PathBuf>,
    /// The line to blame, counted from 1.
    pub line: Option<usize>,
    /// The very place on that line, where it is known.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// The hint, where known.
    pub hint: Option<String>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The line, counted from 1.
    pub line: usize,
    /// The column, counted from 1 in characters.
    pub column: usize,
    /// The line itself and the caret below it.
    picture: String,
}

/// The text of a file, by line.
pub struct Source<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Source<'a> {
    /// Finds the lines of `text`.
    pub fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// The line of the byte `at`, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).max(1)
    }

    /// The place of the bytes `span`.
    pub fn place(&self, span: Range<usize>) -> Place {
        let floor = |at: usize| self.text.floor_char_boundary(at.min(self.text.len()));
        let (start, end) = (floor(span.start), floor(span.end));
        let line = self.line(start);
        let from = self.starts.get(line - 1).copied().unwrap_or_default();
        let text = self.text[from..].lines().next().unwrap_or_default();
        let column = self.text[from..start].chars().count() + 1;
        let blamed = self.text.get(start..end.min(from + text.len())).unwrap_or_default();
        Place { line, column, picture: picture(line, text, column, blamed.chars().count().max(1)) }
    }
}

/// The line and the caret below it, fit for a terminal: nothing in the file moves the cursor.
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
    /// A problem of `file` as a whole, or of no file.
    pub fn new(file: Option<&Path>, error: &Error) -> Self {
        Self {
            severity: Severity::Error,
            file: file.map(Path::to_owned),
            line: None,
            place: None,
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        }
    }

    /// The same problem, at `place` in its file.
    #[must_use]
    pub fn at(self, place: Place) -> Self {
        Self { line: Some(place.line), place: Some(place), ..self }
    }

    /// What is probably not as meant in a value said at `origin`.
    pub fn warning(origin: &Origin, message: String) -> Self {
        let (file, line, message) = match origin {
            Origin::File { path, line } => (Some(path.clone()), Some(*line), message),
            Origin::Flag(flag) => (None, None, format!("'{flag}': {message}")),
            Origin::Default => (None, None, message),
        };
        Self { severity: Severity::Warning, file, line, place: None, message, hint: None }
    }

    /// The same problem, not bad enough to stop anything.
    #[must_use]
    pub fn as_warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
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
        if let Some(place) = &self.place {
            write!(f, "{}:", place.column)?;
        }
        if self.file.is_some() {
            f.write_str(" ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(place) = &self.place {
            write!(f, "\n{}", place.picture)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// All `problems` as one error about `what`.
pub fn together(what: &str, problems: &[Problem]) -> Error {
    if let [Problem { file: None, message, hint, .. }] = problems {
        let error = Error::new(message.clone()).context(what);
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
    Error::new(format!("{what}: {count}\n{}", shown.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_in_characters_and_shown_safely() {
        let text = "a = 1\nä = \"\u{1b}[2J\"\r\n";
        let source = Source::new(text);
        let start = text.find('"').unwrap();
        let place = source.place(start..start + 3);
        assert_eq!((place.line, place.column), (2, 5));
        assert_eq!(place.picture, "  2 | ä = \"\u{fffd}[2J\"\n    |     ^^^");
        for start in 0..40 {
            for end in 0..40 {
                source.place(start..end);
            }
        }
        assert!(Source::new(&"x".repeat(100_000)).place(50_000..90_000).picture.len() < 500);
        assert_eq!(Source::new("").place(3..9).line, 1);
    }
}
