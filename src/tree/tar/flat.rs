//! Files as streams: with zeros for holes, and content of unknown length. Called by `writer`.

use crate::error::{Context, Error, Result};
use crate::tree::entry::{Content, Monitor};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Read;

/// The bytes per read of a file.
const PART: usize = 256 << 10;

/// Content as a stream, with zeros for holes.
pub(super) struct FlatReader<'a> {
    content: &'a mut dyn Content,
    monitor: &'a mut dyn Monitor,
    part: Vec<u8>,
    /// The read offset in the part.
    from: usize,
    /// The position of the stream in the file.
    at: u64,
    /// The position of the part in the file.
    begin: u64,
    ended: bool,
}

impl<'a> FlatReader<'a> {
    /// Returns the stream of content.
    pub(super) fn new(content: &'a mut dyn Content, monitor: &'a mut dyn Monitor) -> Self {
        Self { content, monitor, part: Vec::new(), from: 0, at: 0, begin: 0, ended: false }
    }

    /// Reads the content beyond the expected length: the header is already written. Returns whether the file had
    /// this length.
    ///
    /// # Errors
    /// Any read error.
    pub(super) fn finish(mut self, expected_length: u64) -> Result<bool> {
        while !self.ended {
            self.ended = self.content.next(&mut self.part, PART, self.monitor)?.is_none();
        }
        Ok(self.content.length() == expected_length)
    }
}

impl Read for FlatReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let failed = |error: Error| std::io::Error::other(error.to_string());
        if !self.ended && self.from >= self.part.len() {
            match self.content.next(&mut self.part, PART, self.monitor).map_err(failed)? {
                Some(begin) => (self.begin, self.from) = (begin, 0),
                None => self.ended = true,
            }
            self.monitor.advance(self.part.len() as u64).map_err(failed)?;
        }
        // A hole, or the end of a file that was truncated in the meantime.
        let hole = if self.ended { u64::MAX } else { self.begin.saturating_sub(self.at) };
        let length = if hole > 0 {
            let length = usize::try_from(hole).unwrap_or(usize::MAX).min(buffer.len());
            buffer.iter_mut().take(length).for_each(|byte| *byte = 0);
            length
        } else {
            let rest = self.part.get(self.from..).unwrap_or_default();
            let length = rest.len().min(buffer.len());
            buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            self.from += length;
            self.begin += length as u64;
            length
        };
        self.at += length as u64;
        Ok(length)
    }
}

/// Writes content of unknown length to an unnamed file, to determine its length.
///
/// # Errors
/// Any error of a read or write.
pub(super) fn spool(content: &mut dyn Content, monitor: &mut dyn Monitor) -> Result<(File, u64)> {
    use std::io::{Seek, SeekFrom};
    let directory = std::env::temp_dir();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&directory, flags, Mode::RUSR | Mode::WUSR)
        .context(|| format!("cannot create a file in '{}'", directory.display()))?;
    let mut file = File::from(file);
    let mut part = Vec::new();
    while let Some(at) = content.next(&mut part, PART, monitor)? {
        std::os::unix::fs::FileExt::write_all_at(&file, &part, at)
            .context(|| format!("cannot write to '{}'", directory.display()))?;
        monitor.advance(part.len() as u64)?;
    }
    let length = content.length();
    file.set_len(length)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .context(|| "cannot rewind the temporary file")?;
    Ok((file, length))
}
