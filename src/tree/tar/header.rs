//! The header block of an entry: its fields, and the reasons to refuse it. Called by `reader`.

use super::BLOCK;
use crate::error::{Error, Result};

/// A block.
pub(super) type Block = [u8; BLOCK];

/// The fields of a header.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// The type flag.
    pub(super) flag: u8,
    /// The path, which may be continued by an extension.
    pub(super) path: Vec<u8>,
    /// The target of a link.
    pub(super) link: Vec<u8>,
    /// The mode bits.
    pub(super) mode: u32,
    /// The owner.
    pub(super) uid: u64,
    /// The group.
    pub(super) gid: u64,
    /// The size of the data that follows, bytes.
    pub(super) size: u64,
    /// The time of the last modification, seconds.
    pub(super) modified: i64,
    /// Whether it has the format of GNU tar.
    pub(super) is_gnu: bool,
    /// The block, for the map of a sparse file in the format of old versions of GNU tar.
    pub(super) block: Block,
}

/// Returns a field of a block.
pub(super) fn field(block: &[u8], start: usize, length: usize) -> &[u8] {
    block.get(start..start + length).unwrap_or_default()
}

/// Returns the text before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Parses a number: octal digits between blanks and NULs, or binary with the first bit set (GNU tar).
///
/// # Errors
/// Any other text, and a negative or too large number.
pub(super) fn number(field: &[u8]) -> Result<u64> {
    let invalid = || Error::new("a number in its header is invalid");
    match field.split_first() {
        Some((0x80, rest)) => rest.iter().try_fold(0u64, |value, byte| {
            let shifted =
                value.checked_mul(256).ok_or_else(|| Error::new("a number in its header is too large"))?;
            Ok(shifted + u64::from(*byte))
        }),
        Some((first, _)) if first & 0x80 != 0 => Err(Error::new("a number in its header is negative")),
        _ => {
            let digits = field.trim_ascii_start();
            let end = digits.iter().position(|byte| matches!(byte, b' ' | 0)).unwrap_or(digits.len());
            let (digits, rest) = digits.split_at(end);
            if rest.iter().any(|byte| !matches!(byte, b' ' | 0)) {
                return Err(invalid());
            }
            digits.iter().try_fold(0u64, |value, digit| match digit {
                b'0'..=b'7' => {
                    value.checked_mul(8).map(|value| value + u64::from(digit - b'0')).ok_or_else(invalid)
                }
                _ => Err(invalid()),
            })
        }
    }
}

/// Returns whether the checksum of a block is right: the sum of all bytes, with blanks in its own place.
pub(super) fn has_its_checksum(block: &Block) -> bool {
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = field(block, 148, 8).iter().map(|byte| u64::from(*byte)).sum();
    number(field(block, 148, 8)).is_ok_and(|stored| stored == sum - own + 8 * u64::from(b' '))
}

impl Header {
    /// Parses a block. `None` for a block of zeros, which is not a header.
    ///
    /// # Errors
    /// A wrong checksum, an invalid number, or an unknown format.
    pub(super) fn parse(block: &Block) -> Result<Option<Self>> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !has_its_checksum(block) {
            return Err(Error::new("its header has a wrong checksum")
                .with_hint("the archive is damaged, or it is not a tar archive"));
        }
        let prefix = match field(block, 257, 8) {
            b"ustar\x0000" if field(block, 508, 4) == b"tar\0" => {
                return Err(Error::new("it has the format of star"))
                    .map_err(|error| error.with_hint("create the archive in the format pax"));
            }
            b"ustar\x0000" => text(field(block, 345, 155)),
            // The place of the prefix has other fields.
            b"ustar  \0" => &[],
            magic if magic.iter().all(|byte| *byte == 0) => &[],
            _ => return Err(Error::new("its header has an unknown format")),
        };
        let name = text(field(block, 0, 100));
        let path = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
        let mode = number(field(block, 100, 8))?;
        Ok(Some(Self {
            flag: block[156],
            path,
            link: text(field(block, 157, 100)).to_vec(),
            // The bits above are the type, in archives of some programs.
            mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
            uid: number(field(block, 108, 8))?,
            gid: number(field(block, 116, 8))?,
            size: number(field(block, 124, 12))?,
            modified: i64::try_from(number(field(block, 136, 12))?)
                .map_err(|_| Error::new("the time in its header is too large"))?,
            is_gnu: field(block, 257, 8) == b"ustar  \0",
            block: *block,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"  644 \0\0", 0o644),
            (b"\0\0\0\0", 0),
            (b"77777777777\0", 0o77_777_777_777),
            (&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], 256),
        ] {
            assert_eq!(number(field).unwrap(), value, "{field:?}");
        }
    }

    #[test]
    fn other_numbers_are_refused() {
        let too_large = [&[0x80u8; 1][..], &[0xff; 11]].concat();
        for field in
            [&b"0000648\0"[..], b"-000644\0", b"64 4\0", b"0x10\0", &[0xff; 12], &too_large, b"6\x004"]
        {
            number(field).unwrap_err();
        }
    }
}
