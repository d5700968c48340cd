//! The holes of files in an archive: long ranges of zeros, wherever the file system has blocks for them, so that
//! equal files have equal archives. Called by `writer`.

use super::sparse::{self, Extent};
use crate::error::{Context, Error, Result};
use crate::tree::entry::Monitor;
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

/// The length of ranges that are a hole or data as a whole, bytes.
const RANGE: u64 = 64 << 10;
/// The greatest number of ranges: two numbers of 20 digits and their newlines each, and the number of ranges itself.
const MOST: usize = sparse::LARGEST as usize / 42 - 1;

/// Returns the ranges with data of a file. `None` for a file without holes, and for one that cannot be read or
/// is shorter: it is read as a whole then.
pub(super) fn data_of(file: &File, length: u64) -> Option<Vec<Extent>> {
    if length < 2 * RANGE {
        return None;
    }
    let mut extents: Vec<Extent> = Vec::new();
    let mut part = vec![0u8; usize::try_from(RANGE).ok()?];
    let mut at = 0;
    while at < length {
        // Holes known to the file system are not read.
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => at = data - data % RANGE,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => {}
        }
        let size = RANGE.min(length.saturating_sub(at));
        let part = part.get_mut(..usize::try_from(size).ok()?)?;
        file.read_exact_at(part, at).ok()?;
        if part.iter().any(|byte| *byte != 0) {
            match extents.last_mut() {
                Some((start, length)) if *start + *length == at => *length += size,
                _ => extents.push((at, size)),
            }
        }
        at += RANGE;
    }
    let extents = joined(extents, MOST);
    let has_holes = extents.iter().map(|(_, length)| length).sum::<u64>() < length;
    has_holes.then(|| {
        let mut extents = extents;
        // The size of the file is also that of its map.
        if extents.last().is_none_or(|(at, size)| at + size < length) {
            extents.push((length, 0));
        }
        extents
    })
}

/// Joins ranges across their shortest holes until the map of a sparse file has a place for them.
fn joined(mut extents: Vec<Extent>, most: usize) -> Vec<Extent> {
    let mut shortest = RANGE;
    // The end of the file may add one.
    while extents.len() >= most {
        extents.dedup_by(|next, last| {
            let is_joined = next.0 - (last.0 + last.1) <= shortest;
            if is_joined {
                last.1 = next.0 + next.1 - last.0;
            }
            is_joined
        });
        shortest = shortest.saturating_mul(2);
    }
    extents
}

/// Copies the ranges of a file, padded to a block.
///
/// # Errors
/// A file that has become shorter, or any error of a read or write.
pub(super) fn copy(
    file: &File,
    extents: &[Extent],
    to: &mut impl Write,
    monitor: &mut dyn Monitor,
) -> Result<()> {
    let copying = || "cannot copy the data of a sparse file";
    let mut part = vec![0u8; usize::try_from(RANGE).unwrap_or_default()];
    let mut written = 0u64;
    for (mut at, mut left) in extents.iter().copied() {
        while left > 0 {
            let size = left.min(RANGE);
            let part = part.get_mut(..usize::try_from(size).unwrap_or_default()).unwrap_or_default();
            file.read_exact_at(part, at)
                .map_err(|error| match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => Error::new("the file became shorter"),
                    _ => error.into(),
                })
                .map_err(|error| error.context(copying()))?;
            to.write_all(part).context(copying)?;
            (at, left, written) = (at + size, left - size, written + size);
            monitor.advance(size)?;
        }
    }
    let padding = written.next_multiple_of(super::BLOCK as u64) - written;
    let zeros = [0; super::BLOCK];
    to.write_all(zeros.get(..usize::try_from(padding).unwrap_or_default()).unwrap_or_default())
        .context(copying)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_ranges_of_zeros_are_holes() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"data", 5 * RANGE).unwrap();
        // Zeros with blocks on the disk.
        file.write_all_at(&vec![0; 128 << 10], 0).unwrap();
        file.set_len(10 * RANGE + 7).unwrap();
        let length = 10 * RANGE + 7;
        assert_eq!(data_of(&file, length).unwrap(), [(5 * RANGE, RANGE), (length, 0)]);
        file.write_all_at(&vec![1; 11 << 16], 0).unwrap();
        assert_eq!(data_of(&file, length), None);
    }

    #[test]
    fn the_shortest_holes_are_filled_if_there_are_too_many() {
        let extents = vec![(0, 5), (5 + RANGE, 5), (10 + 3 * RANGE, 5), (15 + 9 * RANGE, 5)];
        assert_eq!(joined(extents.clone(), 5), extents);
        let fewer = [(0, 10 + RANGE), (10 + 3 * RANGE, 5), (15 + 9 * RANGE, 5)];
        assert_eq!(joined(extents.clone(), 4), fewer);
        assert_eq!(joined(extents.clone(), 3), [(0, 15 + 3 * RANGE), (15 + 9 * RANGE, 5)]);
        assert_eq!(joined(extents, 2), [(0, 20 + 9 * RANGE)]);
    }
}
