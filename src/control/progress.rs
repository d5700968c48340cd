//! Progress of waits and copies: status texts of units, and a bar, on one line of a terminal. A job of the service
//! sends it to systemd instead, which the service reads. No output without either.

use super::interrupts::Interrupts;
use crate::error::{Error, Result};
use crate::host::systemd::journal::printable;
use crate::machine::size;
use sd_notify::NotifyState;
use std::io::Write;
use std::time::{Duration, Instant};

/// The output of progress.
pub(crate) struct Progress<'a> {
    target: Target<'a>,
    /// Whether a line is shown.
    is_shown: bool,
}

/// The target of the output.
enum Target<'a> {
    None,
    /// A terminal, and its width in columns.
    Terminal(&'a mut dyn Write, usize),
    /// The status text of the unit.
    Unit,
}

impl<'a> Progress<'a> {
    /// Creates a progress without output.
    pub(crate) fn silent() -> Self {
        Self { target: Target::None, is_shown: false }
    }

    /// Creates the progress of a process without a terminal: that of a unit which accepts it, or one without
    /// output.
    pub(crate) fn of_unit() -> Self {
        let is_accepted = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self { target: if is_accepted { Target::Unit } else { Target::None }, is_shown: false }
    }

    /// Creates a progress on one line of a terminal with `columns` columns.
    pub(crate) fn on_terminal(terminal: &'a mut dyn Write, columns: usize) -> Self {
        Self { target: Target::Terminal(terminal, columns), is_shown: false }
    }

    /// Shows the status of a machine in place of the previous line.
    pub(crate) fn show(&mut self, machine: &str, text: &str) {
        self.show_part(machine, text, None);
    }

    /// Shows a status with the finished part of the work, percent.
    fn show_part(&mut self, machine: &str, text: &str, percent: Option<u64>) {
        let line = printable(format!("{machine}: {text}").as_bytes()).replace(['\t', '\n'], " ");
        let (terminal, columns) = match &mut self.target {
            Target::None => return,
            Target::Terminal(terminal, columns) => (terminal, columns),
            Target::Unit => {
                let percent = percent.map_or_else(String::new, |percent| format!("{percent}% "));
                // Without systemd the progress is lost, not the verb.
                let _ = sd_notify::notify(&[NotifyState::Status(&format!("{percent}{line}"))]);
                return;
            }
        };
        // One column is left free: a full line would wrap and could not be rewritten.
        let line: String = line.chars().take(columns.saturating_sub(1)).collect();
        // Without a writable terminal the progress is lost, not the verb.
        let _ = write!(terminal, "\r{line}\x1b[K").and_then(|()| terminal.flush());
        self.is_shown = true;
    }

    /// Returns a bar for a copy of a tree, with the machine in front. `total` finds out the bytes of the
    /// tree: it is called at most once, for a copy that takes longer, and `None` leaves only the copied
    /// bytes. Signals that would end the process interrupt the copy.
    ///
    /// # Errors
    /// As for [`Interrupts::block`].
    pub(crate) fn bar<'p>(
        &'p mut self,
        machine: &str,
        total: &'p dyn Fn() -> Option<u64>,
    ) -> Result<Bar<'p, 'a>> {
        let (machine, next) = (machine.to_owned(), Instant::now() + FIRST);
        Ok(Bar { progress: self, interrupts: Interrupts::block()?, machine, total, bytes: None, next })
    }

    /// Clears the line.
    pub(crate) fn clear(&mut self) {
        if let (Target::Terminal(terminal, _), true) = (&mut self.target, self.is_shown) {
            let _ = write!(terminal, "\r\x1b[K").and_then(|()| terminal.flush());
        }
        self.is_shown = false;
    }
}

/// The time before a bar is shown first: most copies share blocks, and take less.
const FIRST: Duration = Duration::from_millis(300);
/// The time between two changes of a bar.
const INTERVAL: Duration = Duration::from_millis(100);
/// The width of a bar, columns.
const WIDTH: usize = 20;

/// The bar of a copy.
pub(crate) struct Bar<'p, 'a> {
    progress: &'p mut Progress<'a>,
    interrupts: Interrupts,
    machine: String,
    total: &'p dyn Fn() -> Option<u64>,
    /// The bytes of the tree, once found out.
    bytes: Option<Option<u64>>,
    /// The time of the next change.
    next: Instant,
}

impl Bar<'_, '_> {
    /// Shows the number of copied bytes.
    ///
    /// # Errors
    /// The copy is interrupted.
    pub(crate) fn advance(&mut self, copied: u64) -> Result<()> {
        if self.interrupts.have_arrived() {
            return Err(Error::new("interrupted"));
        }
        if matches!(self.progress.target, Target::None) || Instant::now() < self.next {
            return Ok(());
        }
        let total = *self.bytes.get_or_insert_with(self.total);
        self.progress.show_part(&self.machine, &bar_text(copied, total), percent(copied, total));
        self.next = Instant::now() + INTERVAL;
        Ok(())
    }
}

/// Returns the finished part, percent. `None` if the total is not known.
fn percent(copied: u64, total: Option<u64>) -> Option<u64> {
    // The tree may grow meanwhile.
    total.and_then(|total| copied.saturating_mul(100).checked_div(total)).map(|percent| percent.min(100))
}

fn bar_text(copied: u64, total: Option<u64>) -> String {
    let (Some(total), Some(percent)) = (total, percent(copied, total)) else {
        return format!("{} copied", size::rounded(copied));
    };
    let full = usize::try_from(percent).unwrap_or_default() * WIDTH / 100;
    let bar = format!("{:<WIDTH$}", "#".repeat(full));
    format!("copying [{bar}] {percent} % of {}", size::rounded(total))
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

    #[test]
    fn a_bar_appears_for_longer_copies_only() {
        let mut terminal = Vec::new();
        let mut progress = Progress::on_terminal(&mut terminal, 80);
        let mut bar = progress.bar("web", &|| Some(4 << 30)).unwrap();
        bar.advance(1).unwrap();
        bar.next = Instant::now();
        bar.advance(1 << 30).unwrap();
        drop(bar);
        drop(progress);
        let shown = String::from_utf8(terminal).unwrap();
        assert!(shown.starts_with("\rweb: copying [#####               ] 25 % of 4"), "{shown:?}");
        let mut silent = Progress::silent();
        let mut bar = silent.bar("web", &|| panic!("nothing is shown")).unwrap();
        bar.next = Instant::now();
        bar.advance(1).unwrap();
    }

    #[test]
    fn a_bar_ends_at_a_hundred() {
        assert_eq!(bar_text(5, Some(0)), format!("{} copied", size::rounded(5)));
        assert!(bar_text(u64::MAX, Some(1)).contains("[####################] 100 %"));
    }
}
