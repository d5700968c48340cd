//! Progress of waits: status texts of units, on one line of a terminal. No output without a terminal.

use crate::host::systemd::journal::printable;
use std::io::Write;

/// The output of progress.
pub(crate) struct Progress<'a> {
    /// The terminal and its width in columns, if there is one.
    terminal: Option<(&'a mut dyn Write, usize)>,
    /// Whether a line is shown.
    is_shown: bool,
}

impl<'a> Progress<'a> {
    /// Creates a progress without output.
    pub(crate) fn silent() -> Self {
        Self { terminal: None, is_shown: false }
    }

    /// Creates a progress on one line of a terminal with `columns` columns.
    pub(crate) fn on_terminal(terminal: &'a mut dyn Write, columns: usize) -> Self {
        Self { terminal: Some((terminal, columns)), is_shown: false }
    }

    /// Shows the status of a machine in place of the previous line.
    pub(crate) fn show(&mut self, machine: &str, text: &str) {
        let Some((terminal, columns)) = &mut self.terminal else { return };
        let line = printable(format!("{machine}: {text}").as_bytes()).replace(['\t', '\n'], " ");
        // One column is left free: a full line would wrap and could not be rewritten.
        let line: String = line.chars().take(columns.saturating_sub(1)).collect();
        // Without a writable terminal the progress is lost, not the verb.
        let _ = write!(terminal, "\r{line}\x1b[K").and_then(|()| terminal.flush());
        self.is_shown = true;
    }

    /// Clears the line.
    pub(crate) fn clear(&mut self) {
        if let Some((terminal, _)) = self.terminal.as_mut().filter(|_| self.is_shown) {
            let _ = write!(terminal, "\r\x1b[K").and_then(|()| terminal.flush());
        }
        self.is_shown = false;
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_rewritten_and_cleared() {
        let mut terminal = Vec::new();
        let mut progress = Progress::on_terminal(&mut terminal, 16);
        progress.show("web", "booting: \x1b[31ma\nmore than fits");
        drop(progress);
        assert_eq!(String::from_utf8(terminal).unwrap(), "\rweb: booting: a\x1b[K\r\x1b[K");
        Progress::silent().show("web", "nothing");
    }
}
