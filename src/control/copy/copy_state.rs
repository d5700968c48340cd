//! The state of a copy: its progress on a terminal, and the signals that interrupt it. Called by the parts of
//! `tree` as their monitor.

use crate::control::interruptible::Interruptible;
use crate::control::interrupts::Interrupts;
use crate::control::progress::Progress;
use crate::error::{Context, Error, Result};
use crate::machine::size;
use crate::tree::entry::{Monitor, shown};
use rustix::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The state of a copy.
pub(super) struct CopyState<'a> {
    /// The name of the machine, shown before the progress.
    machine: String,
    progress: Progress<'a>,
    /// The signals that interrupt the copy. `None` in the child, which the parent ends.
    interrupts: Option<Rc<Interrupts>>,
    entries: u64,
    bytes: u64,
    /// The time of the last output.
    shown: Option<Instant>,
}

impl<'a> CopyState<'a> {
    /// Creates the state before the first entry.
    pub(super) fn new(machine: String, progress: Progress<'a>, interrupts: Option<Interrupts>) -> Self {
        let interrupts = interrupts.map(Rc::new);
        Self { machine, progress, interrupts, entries: 0, bytes: 0, shown: None }
    }

    /// Returns the signals.
    ///
    /// # Errors
    /// The child has none.
    pub(super) fn signals(&self) -> Result<Rc<Interrupts>> {
        self.interrupts.clone().ok_or_else(|| Error::new("a child has no standard streams"))
    }

    /// Returns a standard stream that the signals interrupt.
    ///
    /// # Errors
    /// No free descriptors, or a state of the child.
    pub(super) fn stream(&self, stream: BorrowedFd<'_>) -> Result<Interruptible> {
        Interruptible::of(stream, self.signals()?).context(|| "cannot duplicate a standard stream")
    }
}

impl Monitor for CopyState<'_> {
    fn count_entry(&mut self) -> Result<()> {
        self.entries += 1;
        self.advance(0)
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        if self.interrupts.as_ref().is_some_and(|signals| signals.have_arrived()) {
            return Err(Error::new("interrupted; the destination is unchanged"));
        }
        if self.shown.is_none_or(|last| last.elapsed() > Duration::from_millis(100)) {
            self.shown = Some(Instant::now());
            let text = format!("{} copied, {} entries", size::rounded(self.bytes), self.entries);
            self.progress.show(&self.machine, &text);
        }
        Ok(())
    }

    fn skip(&mut self, path: &Path, reason: &str) {
        self.progress.clear();
        log::warn!("skipping {}: {reason}", shown(path, "the source"));
    }

    fn interrupts(&self) -> Option<BorrowedFd<'_>> {
        self.interrupts.as_ref().map(|signals| signals.as_ref().as_fd())
    }
}
