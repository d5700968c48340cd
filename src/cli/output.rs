//! Standard output: text, tables and JSON, and progress on standard error. Called by the verbs. Only this
//! module and `main` (errors) print.

use crate::control::progress::Progress;
use crate::error::{Error, Result};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use rustix::termios;
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// Prints `text` as it is.
///
/// # Errors
/// Standard output cannot be written. A closed pipe is not an error.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::from(error).context("cannot write to standard output"))
        }
        _ => Ok(()),
    }
}

/// Writes what is still in the buffer of standard output: without Rust's own entry point, nothing else does
/// so at the end of the program.
///
/// # Errors
/// See [`text`].
pub(crate) fn finish() -> Result<()> {
    text("")
}

/// Returns whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    termios::isatty(rustix::stdio::stdout())
}

/// Returns whether the locale's encoding is UTF-8, as setlocale(3) finds it.
pub(crate) fn is_unicode() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(std::env::var_os);
    let locale = locale.map(|value| value.to_string_lossy().to_lowercase()).find(|value| !value.is_empty());
    locale.is_some_and(|locale| locale.contains("utf-8") || locale.contains("utf8"))
}

/// Returns a state of a machine, in colour on a terminal: `failed` red, `degraded` yellow. The variable
/// `NO_COLOR` disables colours (no-color.org).
pub(crate) fn colored_state(state: &str) -> String {
    let is_disabled = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    match state {
        "failed" | "dead" if is_terminal() && !is_disabled && !is_dumb => format!("\x1b[31m{state}\x1b[0m"),
        "degraded" | "maintenance" if is_terminal() && !is_disabled && !is_dumb => {
            format!("\x1b[33m{state}\x1b[0m")
        }
        _ => state.to_owned(),
    }
}

/// Returns the columns of standard output. `None` if it is not a terminal.
pub(crate) fn columns() -> Option<usize> {
    let out = rustix::stdio::stdout();
    let size = termios::isatty(out).then(|| termios::tcgetwinsize(out).ok()).flatten()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col.max(20)))
}

/// Prints `text`; on a terminal long lines are folded between words.
///
/// # Errors
/// See [`text`].
pub(crate) fn folded(text: &str) -> Result<()> {
    match columns() {
        Some(columns) => self::text(&text.lines().map(|line| fold(line, columns)).collect::<String>()),
        None => self::text(text),
    }
}

/// Folds a line; the other lines are indented by its label, for example `  hint: `.
fn fold(line: &str, columns: usize) -> String {
    let blanks = line.chars().take_while(|c| *c == ' ').count();
    let label = line.split_once(": ").map(|(label, _)| label.chars().count() + 2);
    let indent = label.filter(|label| *label <= 16).unwrap_or(blanks + 2).min(columns / 2);
    let mut folded = String::new();
    let mut width = 0;
    for word in line.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if width > indent && width + length > columns {
            folded.truncate(folded.trim_end().len());
            folded.push_str(&format!("\n{:indent$}", ""));
            width = indent;
        }
        folded.push_str(word);
        width += word.chars().count();
    }
    folded + "\n"
}

/// Standard output as a [`Write`], for streams.
#[derive(Debug)]
pub(crate) struct Stream;

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::stdout().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

/// Calls `action` with progress on standard error if it is a terminal, or as the status of a unit.
pub(crate) fn with_progress<T>(action: impl FnOnce(&mut Progress<'_>) -> T) -> T {
    let error = rustix::stdio::stderr();
    if !termios::isatty(error) {
        return action(&mut Progress::of_unit());
    }
    let columns = termios::tcgetwinsize(error).map_or(80, |size| usize::from(size.ws_col.max(20)));
    let mut terminal = std::io::stderr();
    action(&mut Progress::on_terminal(&mut terminal, columns))
}

/// Prints one line.
///
/// # Errors
/// See [`text`].
pub(crate) fn line(line: &str) -> Result<()> {
    text(&format!("{line}\n"))
}

/// Prints `value` as JSON.
///
/// # Errors
/// See [`text`].
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let shown = serde_json::to_string_pretty(value).map_err(|error| Error::new(error.to_string()))?;
    line(&shown)
}

/// Prints `value` as JSON on one line.
///
/// # Errors
/// See [`text`].
pub(crate) fn json_line(value: &impl Serialize) -> Result<()> {
    let shown = serde_json::to_string(value).map_err(|error| Error::new(error.to_string()))?;
    line(&shown)
}

/// Prints the report of a verb: as JSON, or as `text` for people.
///
/// # Errors
/// See [`text`].
pub(crate) fn report(value: &impl Serialize, is_json: bool, text: &str) -> Result<()> {
    if is_json { json(value) } else { line(text) }
}

/// Whether a table has a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Legend {
    /// With header.
    Shown,
    /// Without header (`--no-legend`).
    Hidden,
}

/// The alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Left, for words.
    Left,
    /// Right, for numbers.
    Right,
}

/// Formats a table with one line per row and two spaces between columns.
pub(crate) fn table(columns: &[(&str, Align)], rows: &[Vec<String>], legend: Legend) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if legend == Legend::Shown {
        table.set_header(columns.iter().map(|(name, _)| *name));
    }
    table.add_rows(rows);
    let last = columns.len().saturating_sub(1);
    for (at, (_, align)) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, if at == last { 0 } else { 2 }));
            if *align == Align::Right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_aligned_columns_and_no_trailing_blanks() {
        let columns = [("NAME", Align::Left), ("TASKS", Align::Right), ("UNIT", Align::Left)];
        let rows = [
            vec!["web".to_owned(), "7".to_owned(), "a".to_owned()],
            vec!["database".into(), "12".into(), String::new()],
        ];
        assert_eq!(
            table(&columns, &rows, Legend::Shown),
            "NAME      TASKS  UNIT\nweb           7  a\ndatabase     12\n"
        );
        assert!(table(&columns, &rows, Legend::Hidden).starts_with("web"));
        assert_eq!(table(&columns, &[], Legend::Hidden), "");
    }

    #[test]
    fn long_lines_are_folded_and_indented_by_their_label() {
        assert_eq!(fold("  hint: move it to ext4", 80), "  hint: move it to ext4\n");
        assert_eq!(fold("  hint: move it to ext4", 20), "  hint: move it to\n        ext4\n");
        assert_eq!(fold("    a console prints it", 14), "    a console\n      prints\n      it\n");
        assert_eq!(fold("averyveryverylongword and", 20), "averyveryverylongword\n  and\n");
        assert_eq!(fold("", 20), "\n");
    }
}
