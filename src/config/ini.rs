//! Parses files in the syntax of systemd.syntax(7): sections, assignments with their lines, and the words of
//! a value. Called by `nspawn`; it reads no file and knows no setting.

use super::problem::Problem;
use super::setting::Origin;
use super::values::ticked;
use crate::error::{Error, Result};
use std::path::Path;

/// The maximum number of reported problems of a file.
const MAX_PROBLEMS: usize = 100;

/// A line `KEY=VALUE` of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The section, without brackets.
    pub section: String,
    /// The key.
    pub key: String,
    /// The value, without blanks at both ends.
    pub value: String,
    /// The file and its line; of a continued line the first one.
    pub origin: Origin,
}

/// Parses `text` of `file`. Returns the assignments in `sections`, and the problems: an error for an invalid
/// section, after which nothing is parsed, and warnings for ignored lines.
pub fn read(file: &Path, text: &[u8], sections: &[&str]) -> (Vec<Assignment>, Vec<Problem>) {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut reader = IniReader {
        file,
        sections,
        section: CurrentSection::None,
        assignments: Vec::new(),
        problems: Vec::new(),
    };
    let mut continued: Option<(usize, Vec<u8>)> = None;
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        // Comments do not end a continued line.
        if line.first().is_some_and(|first| b"#;".contains(first)) {
            continue;
        }
        let (first, mut whole) = continued.take().unwrap_or((at + 1, Vec::new()));
        whole.extend(line);
        let backslashes = whole.iter().rev().take_while(|byte| **byte == b'\\').count();
        if backslashes % 2 == 1 {
            whole.pop();
            whole.push(b' ');
            continued = Some((first, whole));
        } else if !reader.line(first, &whole) {
            return reader.finish();
        }
    }
    if let Some((first, whole)) = continued {
        reader.line(first, &whole);
    }
    reader.finish()
}

/// The section of a line.
enum CurrentSection {
    /// No section has begun.
    None,
    /// An unknown one.
    Unknown,
    /// A known one.
    Known(String),
}

/// A walk over one file.
struct IniReader<'a> {
    file: &'a Path,
    sections: &'a [&'a str],
    section: CurrentSection,
    assignments: Vec<Assignment>,
    problems: Vec<Problem>,
}

impl IniReader<'_> {
    /// Parses a complete line. Returns whether the next one can be parsed.
    fn line(&mut self, line: usize, text: &[u8]) -> bool {
        let origin = Origin::File { path: self.file.to_owned(), line };
        let Ok(text) = std::str::from_utf8(text) else {
            self.warn(&origin, "the line is not UTF-8, ignoring".to_owned());
            return true;
        };
        let text = text.trim_matches(BLANKS);
        if let Some(rest) = text.strip_prefix('[') {
            let Some(name) = rest.strip_suffix(']') else {
                let error = Error::new(format!("invalid section {}", ticked(text)))
                    .with_hint("write the name of a section between '[' and ']'");
                self.problems.push(Problem::at_origin(&origin, &error));
                return false;
            };
            self.enter(name, &origin);
        } else if !text.is_empty() {
            self.assignment(text, origin);
        }
        true
    }

    fn enter(&mut self, name: &str, origin: &Origin) {
        if self.sections.contains(&name) {
            self.section = CurrentSection::Known(name.to_owned());
            return;
        }
        self.section = CurrentSection::Unknown;
        // Sections with this prefix belong to other programs.
        if !name.starts_with("X-") {
            self.warn(origin, format!("unknown section {}, ignoring", ticked(&format!("[{name}]"))));
        }
    }

    fn assignment(&mut self, text: &str, origin: Origin) {
        let section = match &self.section {
            CurrentSection::Known(section) => section.clone(),
            CurrentSection::Unknown => return,
            CurrentSection::None => {
                return self.warn(&origin, "an assignment before the first section, ignoring".to_owned());
            }
        };
        match text.split_once('=') {
            Some((key, value)) if !key.trim_matches(BLANKS).is_empty() => {
                let [key, value] = [key, value].map(|part| part.trim_matches(BLANKS).to_owned());
                self.assignments.push(Assignment { section, key, value, origin });
            }
            Some(_) => self.warn(&origin, "the key before '=' is missing, ignoring".to_owned()),
            // Not shown: a link of another user may lead to any file of the host.
            None => self.warn(&origin, "the line has no '=', ignoring".to_owned()),
        }
    }

    fn warn(&mut self, origin: &Origin, message: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem::warning(origin, message));
        }
    }

    fn finish(self) -> (Vec<Assignment>, Vec<Problem>) {
        (self.assignments, self.problems)
    }
}

/// The characters between words.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// Splits a value at blanks. Blanks in quotes belong to the word, and the quotes are removed. Backslashes are
/// plain characters, as for systemd-nspawn(1).
///
/// # Errors
/// A quote that does not end.
pub fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in text.chars() {
        match letter {
            _ if quote == Some(letter) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            letter if BLANKS.contains(&letter) && quote.is_none() => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err(Error::new(format!("a quote in {} does not end", ticked(text))));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the assignments of a text as `LINE KEY=VALUE`, and its problems.
    fn parsed(text: &[u8]) -> (Vec<String>, Vec<String>) {
        let (assignments, problems) = read(Path::new("web.nspawn"), text, &["Exec", "Files"]);
        let shown = assignments.iter().map(|one| {
            let Origin::File { line, .. } = one.origin else { panic!("{one:?}") };
            format!("{line} {}.{}={}", one.section, one.key, one.value)
        });
        (shown.collect(), problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn lines_are_parsed_with_comments_and_continuations() {
        let text = b"\xef\xbb\xbf# comment\n; comment\n[Exec]\r\n Boot = yes \r\nParameters=a \\\n  # within\n  b\\\n\n\
            User=\n[Files]\nBind=/a\\:b:/c\\\\\n[X-Other]\nKey=1\n[Exec]\nHostname=end\\";
        let (assignments, problems) = parsed(text);
        assert_eq!(
            assignments,
            [
                "4 Exec.Boot=yes",
                "5 Exec.Parameters=a  b",
                "9 Exec.User=",
                "11 Files.Bind=/a\\:b:/c\\\\",
                "15 Exec.Hostname=end"
            ]
        );
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn ignored_lines_are_named() {
        let (assignments, problems) =
            parsed(b"Boot=yes\n[Exec]\nBoot\n=x\nUser=\xff\n[Wrong]\nKey=1\n[Files\nReadOnly=yes\n");
        assert!(assignments.is_empty(), "{assignments:?}");
        assert_eq!(
            problems,
            [
                "web.nspawn:1: warning: an assignment before the first section, ignoring",
                "web.nspawn:3: warning: the line has no '=', ignoring",
                "web.nspawn:4: warning: the key before '=' is missing, ignoring",
                "web.nspawn:5: warning: the line is not UTF-8, ignoring",
                "web.nspawn:6: warning: unknown section '[Wrong]', ignoring",
                "web.nspawn:8: invalid section '[Files'\n  hint: write the name of a section between '[' and ']'",
            ]
        );
    }

    #[test]
    fn words_have_quotes() {
        let all = |text| words(text).ok();
        let some = |list: &[&str]| Some(list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(all("  a \tb  "), some(&["a", "b"]));
        assert_eq!(all("'a b'\"c'd\" '' x\"\""), some(&["a bc'd", "", "x"]));
        assert_eq!(all("a\\t '\\' \"\\x\""), some(&["a\\t", "\\", "\\x"]));
        assert_eq!((all(""), all("'a"), all("a\"")), (some(&[]), None, None));
    }

    #[test]
    fn no_bytes_cause_a_panic() {
        // A linear congruential generator: the same texts in every run.
        let mut state = 1_u64;
        let alphabet = b"[]=#;\\\r\n\t '\"xuU07aEXec\xff\xc3\xa9\0";
        for round in 0..20_000_u64 {
            let text: Vec<u8> = (0..round % 60)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let pick = (state >> 33) as usize;
                    if pick.is_multiple_of(16) {
                        (state >> 50) as u8
                    } else {
                        alphabet[pick % alphabet.len()]
                    }
                })
                .collect();
            let text = [&b"[Exec]\n"[..(round % 2 * 7) as usize], &text].concat();
            let (assignments, _) = parsed(&text);
            assert!(assignments.len() <= text.len());
            let _ = words(&String::from_utf8_lossy(&text));
        }
    }
}
