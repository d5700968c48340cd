//! Reads the entries of an archive. Two readers agree on an archive that it accepts: headers with two sizes,
//! stray or repeated extension headers, unknown types and truncated archives are refused. Called by `extract`
//! and by the fuzz target. Its memory is bounded by one extension header.

use super::extensions::{self, Extensions};
use super::header::{self, Block, Header};
use super::sparse::{Extent, SparseMap};
use super::{BLOCK, shown};
use crate::error::{Context, Error, Result};
use std::io::Read;

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A hard link.
    Hard,
    /// A named pipe.
    Fifo,
    /// A device.
    Device,
}

/// An entry, as the archive describes it.
#[derive(Debug)]
pub struct Entry {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// Its path.
    pub(crate) path: Vec<u8>,
    /// Its kind.
    pub(crate) kind: Kind,
    /// The target of a link.
    pub(crate) link: Vec<u8>,
    /// The mode bits.
    pub(crate) mode: u32,
    /// The owner.
    pub(crate) uid: u64,
    /// The group.
    pub(crate) gid: u64,
    /// The time of the last modification: seconds and nanoseconds.
    pub(crate) modified: (i64, i64),
    /// The extended attributes.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// The number of its access lists that have names in place of ids.
    pub(crate) lost_lists: u32,
    /// The size of the file, with its holes.
    pub(crate) size: u64,
    /// The size of its data in the archive.
    pub(crate) stored: u64,
    /// The ranges with data of a sparse file. `None` for any other entry.
    pub(crate) extents: Option<Vec<Extent>>,
}

impl Entry {
    /// Returns the entry for a message: its number and its path.
    pub(crate) fn shown(&self) -> String {
        format!("entry {} {}", self.number, shown(&self.path))
    }
}

/// A reader of an archive.
pub struct Reader<R> {
    from: R,
    number: u64,
    /// The data of the present entry that has not been read.
    rest: u64,
    /// The padding after it.
    padding: u64,
    has_ended: bool,
    /// Whether an archive without entries is valid.
    may_be_empty: bool,
}

/// Returns the padding after data of a size.
fn padding(size: u64) -> u64 {
    // The next multiple of the block may be too large for a number.
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// Returns whether a stream with this first block is an archive. One of zeros is none: it has no entries.
pub(crate) fn is_archive(head: &[u8]) -> bool {
    let block = head.get(..BLOCK).and_then(|block| Block::try_from(block).ok());
    block.is_some_and(|block| header::has_its_checksum(&block))
}

fn truncated() -> Error {
    Error::new("the archive is truncated").with_hint("it is incomplete: create or download it again")
}

impl<R: Read> Reader<R> {
    /// Creates a reader.
    pub fn new(from: R) -> Self {
        Self { from, number: 0, rest: 0, padding: 0, has_ended: false, may_be_empty: false }
    }

    /// Creates a reader of a layer of an image, which need not have entries.
    pub fn of_layer(from: R) -> Self {
        Self { may_be_empty: true, ..Self::new(from) }
    }

    /// Reads the next entry. `None` at the end of the archive.
    ///
    /// # Errors
    /// An archive that is refused, or any error of the source. The message names the entry.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.has_ended {
            return Ok(None);
        }
        self.skip_rest()?;
        self.number += 1;
        let mut path = Vec::new();
        self.entry(&mut path).map_err(|error| {
            let named = if path.is_empty() { String::new() } else { format!(" {}", shown(&path)) };
            error.context(format!("entry {}{named}", self.number))
        })
    }

    /// Reads data of the present entry. Returns 0 at its end.
    ///
    /// # Errors
    /// A truncated archive, or any error of the source.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.rest).unwrap_or(usize::MAX).min(buffer.len());
        let Some(place) = buffer.get_mut(..most).filter(|place| !place.is_empty()) else { return Ok(0) };
        let length = read_once(&mut self.from, place)?;
        if length == 0 {
            return Err(truncated());
        }
        self.rest = self.rest.saturating_sub(length as u64);
        Ok(length)
    }

    fn entry(&mut self, path: &mut Vec<u8>) -> Result<Option<Entry>> {
        let mut found = Extensions::default();
        loop {
            let header = Header::parse(&self.block()?.ok_or_else(truncated)?)?;
            let Some(header) = header else {
                if found.is_used() {
                    return Err(Error::new("an extension header has no entry"));
                }
                return self.end().map(|()| None);
            };
            path.clone_from(&header.path);
            match header.flag {
                b'L' | b'K' => found.take_long_name(header.flag, &self.data(header.size)?)?,
                b'x' => found.take_records(&self.data(header.size)?)?,
                b'g' if found.is_used() => {
                    return Err(Error::new("a global header follows an extension header"));
                }
                b'g' => extensions::check_global(&self.data(header.size)?)?,
                _ => return self.finish(header, found, path).map(Some),
            }
        }
    }

    /// Completes an entry from its header and those before it.
    fn finish(&mut self, header: Header, mut found: Extensions, shown: &mut Vec<u8>) -> Result<Entry> {
        let (path, link) = found.take_names()?;
        let path = found.sparse.path.take().or(path).unwrap_or(header.path);
        shown.clone_from(&path);
        let kind = kind(header.flag, &path)?;
        let size = one_size(header.size, found.size)?;
        if kind != Kind::File && size != 0 {
            return Err(Error::new("it has data, but it is not a file"));
        }
        if header.flag == b'S' && found.sparse.is_used() || found.sparse.is_used() && kind != Kind::File {
            return Err(Error::new("its headers do not agree on a sparse file"));
        }
        if header.flag == b'S' && !header.is_gnu {
            return Err(Error::new("it is a sparse file of GNU tar in another format"));
        }
        (self.rest, self.padding) = (size, padding(size));
        let map = if header.flag == b'S' {
            Some(SparseMap::of_old_header(&header.block, || self.block()?.ok_or_else(truncated))?)
        } else if found.sparse.has_map_in_data()? {
            let size = found.sparse.size.ok_or_else(|| Error::new("the sparse file has no size"))?;
            Some(self.map_in_data(size)?)
        } else if found.sparse.is_used() {
            Some(found.sparse.into_map()?)
        } else {
            None
        };
        let map = map.map(|map| map.check(self.rest)).transpose()?;
        Ok(Entry {
            number: self.number,
            path,
            kind,
            link: link.unwrap_or(header.link),
            mode: header.mode,
            uid: found.uid.unwrap_or(header.uid),
            gid: found.gid.unwrap_or(header.gid),
            modified: found.modified.unwrap_or((header.modified, 0)),
            attributes: found.attributes,
            lost_lists: found.lost_lists,
            size: map.as_ref().map_or(size, |map| map.size),
            stored: self.rest,
            extents: map.map(|map| map.extents),
        })
    }

    /// Reads the map before the data of a sparse file.
    fn map_in_data(&mut self, size: u64) -> Result<SparseMap> {
        let rest = self.rest;
        let mut read = 0u64;
        let (map, length) = SparseMap::of_data(size, || {
            read += BLOCK as u64;
            if read > rest {
                return Err(Error::new("the map of the sparse file is invalid"));
            }
            self.block()?.ok_or_else(truncated)
        })?;
        self.rest = rest.saturating_sub(length);
        Ok(map)
    }

    /// Reads the data of an extension header.
    fn data(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > extensions::LARGEST {
            return Err(Error::new("its extension header is larger than 1 MiB"));
        }
        let mut data = Vec::new();
        while (data.len() as u64) < size {
            data.extend_from_slice(&self.block()?.ok_or_else(truncated)?);
        }
        data.truncate(usize::try_from(size).unwrap_or_default());
        Ok(data)
    }

    /// Reads a block. `None` at the end of the source.
    fn block(&mut self) -> Result<Option<Block>> {
        let mut block = [0; BLOCK];
        let mut at = 0;
        while let Some(place) = block.get_mut(at..).filter(|place| !place.is_empty()) {
            match read_once(&mut self.from, place)? {
                0 if at == 0 => return Ok(None),
                0 => return Err(truncated()),
                length => at += length,
            }
        }
        Ok(Some(block))
    }

    /// Reads the end of the archive: a second block of zeros, and padding.
    fn end(&mut self) -> Result<()> {
        let mut next = Some(self.block()?.ok_or_else(truncated)?);
        while let Some(block) = next {
            if block.iter().any(|byte| *byte != 0) {
                return Err(Error::new("data follows the end of the archive"));
            }
            next = self.block()?;
        }
        if self.number == 1 && !self.may_be_empty {
            return Err(Error::new("the archive is empty"));
        }
        self.has_ended = true;
        Ok(())
    }

    /// Reads what is left of the present entry.
    fn skip_rest(&mut self) -> Result<()> {
        let mut part = [0u8; 8192];
        while self.read(&mut part)? > 0 {}
        self.rest = std::mem::take(&mut self.padding);
        while self.read(&mut part)? > 0 {}
        Ok(())
    }
}

fn read_once(from: &mut impl Read, place: &mut [u8]) -> Result<usize> {
    loop {
        match from.read(place) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => return read.context(|| "cannot read the archive"),
        }
    }
}

/// Returns the kind of an entry. In old archives a directory is a file whose path ends with a slash.
fn kind(flag: u8, path: &[u8]) -> Result<Kind> {
    match flag {
        0 | b'5' if path.ends_with(b"/") => Ok(Kind::Directory),
        b'0'..=b'6' | b'S' if path.ends_with(b"/") => {
            Err(Error::new("its path ends with a slash, but it is not a directory"))
        }
        b'0' | 0 | b'S' => Ok(Kind::File),
        b'1' => Ok(Kind::Hard),
        b'2' => Ok(Kind::Symlink),
        b'3' | b'4' => Ok(Kind::Device),
        b'5' => Ok(Kind::Directory),
        b'6' => Ok(Kind::Fifo),
        flag => Err(Error::new(format!("its type '{}' is unknown", char::from(flag).escape_default()))),
    }
}

/// Returns the size of the data. Readers without extension headers use the one in the header, which is 0 or the
/// largest one where there is no place for more.
fn one_size(header: u64, extension: Option<u64>) -> Result<u64> {
    const LARGEST: u64 = 0o77_777_777_777;
    match extension {
        None => Ok(header),
        Some(size) if size == header || size > LARGEST && (header == 0 || header == LARGEST) => Ok(size),
        Some(size) => Err(Error::new(format!("it has two sizes, {header} and {size}"))),
    }
}
