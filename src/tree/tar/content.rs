//! The data of an entry as the content of a file: data of a sparse file at its place. Called by `extract`.

use super::reader::{Entry, Reader};
use crate::error::Result;
use crate::tree::entry::{Content, Monitor};
use std::io::Read;

/// The content of an entry.
pub(super) struct EntryContent<'a, R> {
    reader: &'a mut Reader<R>,
    size: u64,
    /// The ranges that have not been read, the next one last.
    extents: Vec<(u64, u64)>,
}

impl<'a, R: Read> EntryContent<'a, R> {
    /// Returns the content of the present entry of a reader.
    pub(super) fn new(reader: &'a mut Reader<R>, entry: &mut Entry) -> Self {
        let mut extents = entry.extents.take().unwrap_or_else(|| vec![(0, entry.stored)]);
        extents.retain(|(_, length)| *length > 0);
        extents.reverse();
        Self { reader, size: entry.size, extents }
    }
}

impl<R: Read> Content for EntryContent<'_, R> {
    fn next(&mut self, buffer: &mut Vec<u8>, most: usize, _: &mut dyn Monitor) -> Result<Option<u64>> {
        let Some((at, left)) = self.extents.pop() else { return Ok(None) };
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(most);
        buffer.resize(wanted, 0);
        let length = self.reader.read(buffer)?;
        buffer.truncate(length);
        if left > length as u64 {
            self.extents.push((at + length as u64, left - length as u64));
        }
        Ok(Some(at))
    }

    fn length(&self) -> u64 {
        self.size
    }

    fn expected_length(&self) -> Option<u64> {
        Some(self.size)
    }
}
