//! The compression of a source, by its first bytes and never by its name. Called by `pipeline`.

/// The compression of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// None.
    Plain,
    /// gzip(1).
    Gzip,
    /// zstd(1).
    Zstd,
    /// xz(1).
    Xz,
    /// bzip2(1).
    Bzip2,
}

/// The longest magic, bytes.
pub(super) const LONGEST: usize = 6;

/// The first bytes of compressed files.
const MAGIC: [(&[u8], Compression); 4] = [
    (&[0x1f, 0x8b], Compression::Gzip),
    (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
    (b"BZh", Compression::Bzip2),
];

impl Compression {
    /// Recognises a compression.
    pub(super) fn of(head: &[u8]) -> Self {
        // A file of zstd may begin with a frame that is skipped (pzstd).
        let is_skipped = matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
        let found =
            MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, compression)| *compression);
        found.unwrap_or(if is_skipped { Self::Zstd } else { Self::Plain })
    }

    /// Returns the name for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_decide() {
        assert_eq!(Compression::of(b"\x1f\x8b\x08"), Compression::Gzip);
        assert_eq!(Compression::of(b"BZh91AY"), Compression::Bzip2);
        assert_eq!(Compression::of(b"\x5a\x2a\x4d\x18"), Compression::Zstd);
        for plain in [&b""[..], b"\x1f", b"./\0\0\0\0"] {
            assert_eq!(Compression::of(plain), Compression::Plain);
        }
    }
}
