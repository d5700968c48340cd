//! What is wrong in a definition, with its place, and how it is shown: file, line, column, the
//! line itself, a caret below it and the cure. Made by `toml`, `files` and `resolve`.

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
    /// Where in the file, where one place is to blame.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// The cure, where known.
    pub hint: Option<String>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The line, counted from 1.
    pub line: usize,
    /// The column, counted from 1 in characters.
    pub column: usize,
    /// How many characters are to blame, at least 1.
    pub length: usize,
    /// The line itself.
    text: String,
}

impl Place {
    /// The place of the bytes `span` of `source`.
    pub fn of(source: &str, span: Range<usize>) -> Self {
        let floor = |at: usize| source.floor_char_boundary(at.min(source.len()));
        let (start, end) = (floor(span.start), floor(span.end));
        let from = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let to = source[start..].find('\n').map_or(source.len(), |at| start + at);
        let blamed = source.get(start..end.min(to)).unwrap_or_default();
        Self {
            line: source[..from].matches('\n').count() + 1,
            column: source[from..start].chars().count() + 1,
            length: blamed.chars().count().max(1),
            text: source[from..to].trim_end_matches('\r').to_owned(),
        }
    }

    /// The line and the caret below it, fit for a terminal: nothing in the file moves the cursor.
    fn picture(&self) -> String {
        let skipped = self.column.saturating_sub(LINE_SHOWN / 2);
        let skipped = if self.text.chars().count() <= LINE_SHOWN { 0 } else { skipped };
        let shown: String = self
            .text
            .chars()
            .skip(skipped)
            .take(LINE_SHOWN)
            .map(|letter| match letter {
                '\t' => ' ',
                letter if letter.is_control() => '\u{fffd}',
                letter => letter,
            })
            .collect();
        let gutter = self.line.to_string();
        let blank = " ".repeat(gutter.len());
        let before = " ".repeat(self.column - 1 - skipped.min(self.column - 1));
        let carets = "^".repeat(self.length.min(LINE_SHOWN));
        format!("  {gutter} | {shown}\n  {blank} | {before}{carets}")
    }
}

impl Problem {
    /// A problem of `file` at `place`.
    pub fn new(file: Option<&Path>, place: Option<Place>, error: &Error) -> Self {
        Self {
            severity: Severity::Error,
            file: file.map(Path::to_owned),
            place,
            message: error.to_string(),
            hint: error.cure().map(str::to_owned),
        }
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
        if let Some(place) = &self.place {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        if self.file.is_some() {
            f.write_str(" ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(place) = &self.place {
            write!(f, "\n{}", place.picture())?;
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
            Some(hint) => error.hint(hint.clone()),
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
        let source = "a = 1\nä = \"\u{1b}[2J\"\r\n";
        let start = source.find('"').unwrap();
        let place = Place::of(source, start..start + 3);
        assert_eq!((place.line, place.column), (2, 5));
        assert_eq!(place.picture(), "  2 | ä = \"\u{fffd}[2J\"\n    |     ^^^");
        for start in 0..40 {
            for end in 0..40 {
                Place::of(source, start..end).picture();
            }
        }
        let long = Place::of(&"x".repeat(100_000), 50_000..90_000).picture();
        assert!(long.len() < 500);
    }
}
