//! The console among the entries of a log: systemd of a guest writes each start of a unit to its console and to
//! its journal. Lines of the console are shown while the guest has no journal: before its first entry, and
//! after its last one of a boot.

use crate::error::Result;
use crate::host::systemd::journal::JournalEntry;
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// The maximum number of entries that wait for an entry of the guest.
const MOST: usize = 4096;

/// A receiver of entries, which may break.
pub(super) type Sink<'a> = dyn FnMut(JournalEntry) -> Result<ControlFlow<()>> + 'a;

/// The lines of the console that are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Console {
    /// All.
    Shown,
    /// Those without a journal of the guest. Lines after its last entry are shown at the end.
    WithoutJournal,
    /// The same, of a running guest: its last entry is not known.
    OfRunning,
    /// The same, while entries are written: those of the host do not wait for an entry of the guest.
    Followed,
}

/// Selects entries in the order of their time, or in the reverse order.
#[derive(Debug)]
pub(super) struct ConsoleFilter {
    console: Console,
    has_journal: bool,
    boot: Option<String>,
    held: VecDeque<JournalEntry>,
}

impl ConsoleFilter {
    pub(super) fn new(console: Console) -> Self {
        Self { console, has_journal: false, boot: None, held: VecDeque::new() }
    }

    /// Selects entries while they are written from now on, after [`ConsoleFilter::finish`].
    pub(super) fn follow(&mut self) {
        if self.console != Console::Shown {
            self.console = Console::Followed;
        }
    }

    /// Passes an entry of the guest's or the host's journal to `sink`, unless it is hidden.
    ///
    /// # Errors
    /// Those of `sink`.
    pub(super) fn pass(
        &mut self,
        is_of_guest: bool,
        entry: JournalEntry,
        sink: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>> {
        if self.console == Console::Shown {
            return sink(entry);
        }
        if is_of_guest {
            self.has_journal = true;
            if self.emit_held(false, sink)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            return sink(entry);
        }
        if entry.boot.is_some() && entry.boot != self.boot {
            self.boot.clone_from(&entry.boot);
            self.has_journal = false;
            // The end of another boot.
            if self.emit_held(true, sink)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let keeps_order = self.console != Console::Followed && !self.held.is_empty();
        if (entry.is_console && self.has_journal) || keeps_order {
            self.held.push_back(entry);
            // The oldest one is decided.
            let oldest = if self.held.len() > MOST { self.held.pop_front() } else { None };
            return oldest.filter(|entry| !entry.is_console).map_or(Ok(ControlFlow::Continue(())), sink);
        }
        sink(entry)
    }

    /// Passes the entries that wait.
    ///
    /// # Errors
    /// Those of `sink`.
    pub(super) fn finish(&mut self, sink: &mut Sink<'_>) -> Result<ControlFlow<()>> {
        self.emit_held(self.console == Console::WithoutJournal, sink)
    }

    fn emit_held(&mut self, with_console: bool, sink: &mut Sink<'_>) -> Result<ControlFlow<()>> {
        for entry in self.held.drain(..).filter(|entry| with_console || !entry.is_console) {
            if sink(entry)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the messages shown of entries: `c` of the console, `h` of the host, `g` of the guest, each with
    /// a number of a boot.
    fn shown(console: Console, entries: &[&str]) -> Vec<String> {
        let mut filter = ConsoleFilter::new(console);
        let mut shown = Vec::new();
        let mut sink = |entry: JournalEntry| {
            shown.push(entry.message);
            Ok(ControlFlow::Continue(()))
        };
        for (at, text) in entries.iter().enumerate() {
            let kind = &text[..1];
            let entry = JournalEntry {
                time: at as u64,
                source: String::new(),
                pid: None,
                priority: None,
                message: format!("{text}{at}"),
                boot: (kind == "c").then(|| text[1..].to_owned()),
                is_console: kind == "c",
                cursor: None,
                whole: None,
            };
            assert!(filter.pass(kind == "g", entry, &mut sink).unwrap().is_continue());
        }
        assert!(filter.finish(&mut sink).unwrap().is_continue());
        shown
    }

    #[test]
    fn the_console_is_shown_without_a_journal() {
        let boot = ["h", "c1", "g", "c1", "h", "g", "c1", "h"];
        assert_eq!(shown(Console::Shown, &boot).len(), boot.len());
        let without = shown(Console::WithoutJournal, &boot);
        assert_eq!(without, ["h0", "c11", "g2", "h4", "g5", "c16", "h7"]);
        assert_eq!(shown(Console::OfRunning, &boot), ["h0", "c11", "g2", "h4", "g5", "h7"]);
        // A guest without a journal, and the end of a boot before another one.
        assert_eq!(shown(Console::OfRunning, &["c1", "h", "c1"]), ["c10", "h1", "c12"]);
        let two = shown(Console::OfRunning, &["c1", "g", "c1", "h", "c2", "g", "c2"]);
        assert_eq!(two, ["c10", "g1", "c12", "h3", "c24", "g5"]);
    }

    #[test]
    fn followed_entries_of_the_host_do_not_wait_for_the_guest() {
        let boot = ["c1", "g", "c1", "h", "c1", "h"];
        assert_eq!(shown(Console::Followed, &boot), ["c10", "g1", "h3", "h5"]);
        assert_eq!(shown(Console::Followed, &["c1", "g", "c1", "h", "g"]), ["c10", "g1", "h3", "g4"]);
        // The end of a boot that crashed, before the next one.
        let two = shown(Console::Followed, &["c1", "g", "c1", "h", "c2"]);
        assert_eq!(two, ["c10", "g1", "h3", "c12", "c24"]);
    }

    #[test]
    fn following_shows_the_console_only_if_all_of_it_is_shown() {
        for (console, expected) in [
            (Console::Shown, Console::Shown),
            (Console::WithoutJournal, Console::Followed),
            (Console::OfRunning, Console::Followed),
        ] {
            let mut filter = ConsoleFilter::new(console);
            filter.follow();
            assert_eq!(filter.console, expected);
        }
    }
}
