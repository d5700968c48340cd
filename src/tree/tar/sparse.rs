//! The maps of sparse files: the format of old versions of GNU tar, and its formats 0.0, 0.1 and 1.0 in
//! extension headers (GNU tar manual, "Storing Sparse Files"). Called by `reader`.

use super::header::{self, Block, field};
use super::{BLOCK, pax};
use crate::error::{Error, Result};

/// The largest map, bytes.
pub(super) const LARGEST: u64 = 1 << 20;

/// A range with data: its position in the file and its length, bytes.
pub(super) type Extent = (u64, u64);

/// The keys of an extension header about a sparse file.
#[derive(Debug, Default)]
pub(super) struct SparseKeys {
    /// The version of the format: major and minor number.
    pub(super) version: (Option<u64>, Option<u64>),
    /// The path, which replaces that of the header.
    pub(super) path: Option<Vec<u8>>,
    /// The size of the file with its holes.
    pub(super) size: Option<u64>,
    /// The number of ranges.
    pub(super) count: Option<u64>,
    /// Offsets and lengths in turn.
    pub(super) numbers: Vec<u64>,
    /// Whether the numbers came as one list (0.1).
    pub(super) is_list: bool,
}

/// A sparse file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseMap {
    /// The size of the file with its holes.
    pub(super) size: u64,
    /// The ranges with data, in order.
    pub(super) extents: Vec<Extent>,
}

fn invalid() -> Error {
    Error::new("the map of the sparse file is invalid")
}

impl SparseKeys {
    /// Takes a key after `GNU.sparse.`.
    ///
    /// # Errors
    /// An unknown or repeated key, or an invalid number.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let set = |place: &mut Option<u64>| match place.replace(pax::decimal(value)?) {
            None => Ok(()),
            Some(_) => Err(Error::new("its extension header has a key twice")),
        };
        match key {
            b"major" => set(&mut self.version.0),
            b"minor" => set(&mut self.version.1),
            b"size" | b"realsize" => set(&mut self.size),
            b"numblocks" => set(&mut self.count),
            b"name" if self.path.is_none() => {
                self.path = Some(value.to_vec());
                Ok(())
            }
            b"offset" | b"numbytes" if !self.is_list => {
                if self.numbers.len().is_multiple_of(2) != (key == b"offset") {
                    return Err(invalid());
                }
                self.numbers.push(pax::decimal(value)?);
                Ok(())
            }
            b"map" if self.numbers.is_empty() && !self.is_list => {
                self.is_list = true;
                if !value.is_empty() {
                    for number in value.split(|byte| *byte == b',') {
                        self.numbers.push(pax::decimal(number)?);
                    }
                }
                Ok(())
            }
            _ => Err(invalid()),
        }
    }

    /// Returns whether a key was given.
    pub(super) fn is_used(&self) -> bool {
        self.version != (None, None)
            || self.path.is_some()
            || self.size.is_some()
            || self.count.is_some()
            || self.is_list
            || !self.numbers.is_empty()
    }

    /// Returns whether the map precedes the data (1.0).
    ///
    /// # Errors
    /// Another version, or a map at both places.
    pub(super) fn has_map_in_data(&self) -> Result<bool> {
        match self.version {
            (None, None) => Ok(false),
            (Some(1), Some(0)) if self.numbers.is_empty() && !self.is_list && self.count.is_none() => {
                Ok(true)
            }
            _ => Err(invalid()),
        }
    }

    /// Returns the map in the keys.
    ///
    /// # Errors
    /// Missing keys, or a number of ranges that is not that of the map.
    pub(super) fn into_map(self) -> Result<SparseMap> {
        let size = self.size.ok_or_else(invalid)?;
        if !self.numbers.len().is_multiple_of(2) || self.count != Some(self.numbers.len() as u64 / 2) {
            return Err(invalid());
        }
        Ok(SparseMap { size, extents: pairs(&self.numbers) })
    }
}

fn pairs(numbers: &[u64]) -> Vec<Extent> {
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

impl SparseMap {
    /// Checks the ranges: in order, inside the file, and together as long as the stored data.
    ///
    /// # Errors
    /// Other ranges.
    pub(super) fn check(self, stored: u64) -> Result<Self> {
        let (mut end, mut sum) = (0u64, 0u64);
        for (offset, length) in &self.extents {
            if *offset < end {
                return Err(invalid());
            }
            end = offset.checked_add(*length).filter(|end| *end <= self.size).ok_or_else(invalid)?;
            sum = sum.checked_add(*length).ok_or_else(invalid)?;
        }
        if sum == stored { Ok(self) } else { Err(invalid()) }
    }

    /// Reads the map of an old header; `next` reads the blocks that continue it.
    ///
    /// # Errors
    /// An invalid number, too many ranges, or any error of `next`.
    pub(super) fn of_old_header(first: &Block, mut next: impl FnMut() -> Result<Block>) -> Result<Self> {
        let mut extents = Vec::new();
        let mut has_ended = take(&mut extents, field(first, 386, 96), false)?;
        let mut continues = field(first, 482, 1) != [0];
        while continues {
            let block = next()?;
            has_ended = take(&mut extents, field(&block, 0, 504), has_ended)?;
            continues = field(&block, 504, 1) != [0];
            if extents.len() as u64 * 24 > LARGEST {
                return Err(invalid());
            }
        }
        Ok(Self { size: header::number(field(first, 483, 12))?, extents })
    }

    /// Reads the map before the data: decimal numbers, each with a newline, padded to a block. Returns also
    /// the length of the map.
    ///
    /// # Errors
    /// Another text, too many ranges, or any error of `next`.
    pub(super) fn of_data(size: u64, mut next: impl FnMut() -> Result<Block>) -> Result<(Self, u64)> {
        let (mut numbers, mut digits, mut length) = (Vec::new(), Vec::new(), 0u64);
        let mut wanted = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            length += BLOCK as u64;
            if length > LARGEST {
                return Err(invalid());
            }
            for byte in next()? {
                match byte {
                    _ if wanted.is_some_and(|wanted| numbers.len() >= wanted) => {
                        // Only padding follows the last number.
                        if byte != 0 {
                            return Err(invalid());
                        }
                    }
                    b'\n' => {
                        let number = pax::decimal(&digits)?;
                        digits.clear();
                        match wanted {
                            None => wanted = Some(usize::try_from(number.min(LARGEST)).unwrap_or(0) * 2),
                            Some(_) => numbers.push(number),
                        }
                    }
                    _ => digits.push(byte),
                }
            }
        }
        Ok((Self { size, extents: pairs(&numbers) }, length))
    }
}

/// Takes the ranges of one block. Returns whether an empty place has ended them.
fn take(extents: &mut Vec<Extent>, places: &[u8], mut has_ended: bool) -> Result<bool> {
    for place in places.chunks_exact(24) {
        let (offset, length) = place.split_at(12);
        if offset[0] == 0 {
            has_ended = true;
        } else if has_ended {
            return Err(invalid());
        } else {
            extents.push((header::number(offset)?, header::number(length)?));
        }
    }
    Ok(has_ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Block {
        let mut block = [0; BLOCK];
        block[..text.len()].copy_from_slice(text.as_bytes());
        block
    }

    #[test]
    fn a_map_before_the_data_is_read() {
        let (map, length) = SparseMap::of_data(100, || Ok(block("2\n0\n5\n50\n10\n"))).unwrap();
        assert_eq!((map.extents, length), (vec![(0, 5), (50, 10)], 512));
        SparseMap::of_data(100, || Ok(block("1\n0\n5\nx"))).unwrap_err();
        SparseMap::of_data(100, || Ok([b'1'; BLOCK])).unwrap_err();
    }

    #[test]
    fn ranges_are_in_order_and_inside_the_file() {
        let check =
            |extents: &[Extent], stored| SparseMap { size: 100, extents: extents.to_vec() }.check(stored);
        check(&[(0, 5), (5, 5), (100, 0)], 10).unwrap();
        for (extents, stored) in
            [(&[(0, 5), (4, 5)][..], 10), (&[(99, 2)], 2), (&[(0, 5)], 6), (&[(u64::MAX, 2)], 2)]
        {
            check(extents, stored).unwrap_err();
        }
    }

    #[test]
    fn keys_of_two_formats_are_refused() {
        let keys = |pairs: &[(&str, &str)]| {
            let mut keys = SparseKeys::default();
            pairs
                .iter()
                .try_for_each(|(key, value)| keys.take(key.as_bytes(), value.as_bytes()))
                .map(|()| keys)
        };
        let list = keys(&[("size", "9"), ("numblocks", "1"), ("map", "0,9")]).unwrap();
        assert_eq!(list.into_map().unwrap(), SparseMap { size: 9, extents: vec![(0, 9)] });
        keys(&[("map", "0,9"), ("offset", "1")]).unwrap_err();
        keys(&[("numbytes", "1")]).unwrap_err();
        keys(&[("size", "1"), ("realsize", "2")]).unwrap_err();
        keys(&[("major", "1"), ("minor", "0"), ("map", "0,9")]).unwrap().has_map_in_data().unwrap_err();
        keys(&[("major", "2"), ("minor", "0")]).unwrap().has_map_in_data().unwrap_err();
    }
}
