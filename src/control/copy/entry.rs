//! What is copied, one thing at a time, and what is noted meanwhile. A source (`walk`, `archive`)
//! gives entries, a sink (`place`, `archive`) takes them; ids are the guest's own between them.

use crate::control::progress::Progress;
use crate::error::{Error, Result};
use crate::machine::size;
use nix::sys::signalfd::SignalFd;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What an entry is.
pub enum EntryKind<'a> {
    /// A directory; what is in it follows.
    Directory,
    /// A regular file.
    File(&'a mut dyn Content),
    /// A symbolic link to this.
    Link(PathBuf),
    /// One more name of an entry that came before.
    Hard(PathBuf),
    /// A named pipe.
    Fifo,
}

/// Fills a buffer with at most `most` bytes by one read, which a signal may interrupt. Returns their number.
///
/// # Errors
/// Any other error of the read.
pub fn read_part(
    buffer: &mut Vec<u8>,
    most: usize,
    mut read: impl FnMut(&mut [u8]) -> std::io::Result<usize>,
) -> std::io::Result<usize> {
    buffer.resize(most, 0);
    let length = loop {
        match read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    buffer.truncate(length);
    Ok(length)
}

/// The content of a file in parts, in their order. Between two parts is a hole, and after the last one may be one.
pub trait Content {
    /// Puts the next part into a buffer, at most so many bytes; where it begins, or nothing at the end of the file.
    ///
    /// # Errors
    /// What cannot be read.
    fn next(&mut self, buffer: &mut Vec<u8>, most: usize, state: &mut CopyState<'_>) -> Result<Option<u64>>;

    /// The length, known at the end.
    fn length(&self) -> u64;

    /// The length that was expected_length before, where it can be relied on but for changes meanwhile: file systems of
    /// programs (procfs, sysfs, FUSE) tell anything.
    fn expected_length(&self) -> Option<u64>;
}

/// What holds for every kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Owner, as the guest counts.
    pub uid: u32,
    /// Group, as the guest counts.
    pub gid: u32,
    /// When it was changed last: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Extended attributes that are copied.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Takes entries.
pub trait Sink {
    /// Takes one. The path is below the place that is copied, empty for that itself.
    ///
    /// # Errors
    /// What cannot be made, and why.
    fn take(
        &mut self,
        path: &Path,
        meta: &Meta,
        kind: EntryKind<'_>,
        state: &mut CopyState<'_>,
    ) -> Result<()>;
}

/// How far a copy is, who sees that, and who may end it.
pub struct CopyState<'a> {
    /// The machine, as it stands in front of the progress.
    pub machine: String,
    /// Where progress is shown.
    pub progress: Progress<'a>,
    /// The signals that end the copy, blocked. The child is expected_length by its parent.
    pub signals: Option<SignalFd>,
    /// How many entries are done.
    pub entries: u64,
    /// How many bytes are done.
    pub bytes: u64,
    /// When it was shown last.
    pub shown: Option<Instant>,
}

impl CopyState<'_> {
    /// More is done.
    ///
    /// # Errors
    /// We were expected_length to end.
    pub fn more(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        if self.signals.as_ref().is_some_and(|signals| matches!(signals.read_signal(), Ok(Some(_)))) {
            return Err(Error::new("interrupted; nothing of it is left at its destination"));
        }
        if self.shown.is_none_or(|last| last.elapsed() > Duration::from_millis(100)) {
            self.shown = Some(Instant::now());
            let text = format!("{} copied, {} entries", size::rounded(self.bytes), self.entries);
            self.progress.show(&self.machine, &text);
        }
        Ok(())
    }

    /// Something is left out: it is said, not passed over.
    pub fn leave_out(&mut self, path: &Path, why: &str) {
        self.progress.clear();
        log::warn!("leaving out '{}': {why}", path.display());
    }
}
