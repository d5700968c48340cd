//! The format of an export: by the name of its destination, or as requested. Called by `export`.

use crate::error::{Error, Result};
use crate::image::import::Compression;
use crate::machine::root::RootSource;
use std::path::Path;

/// The format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExportFormat {
    /// Whether it is that of a disk image, else a tar archive.
    is_disk: bool,
    /// The compression.
    pub(super) compression: Compression,
}

/// The endings of names, and their formats.
const ENDINGS: [(&str, bool, Compression); 11] = [
    ("tar", false, Compression::Plain),
    ("tar.gz", false, Compression::Gzip),
    ("tar.zst", false, Compression::Zstd),
    ("tar.xz", false, Compression::Xz),
    ("tgz", false, Compression::Gzip),
    ("tzst", false, Compression::Zstd),
    ("txz", false, Compression::Xz),
    ("raw", true, Compression::Plain),
    ("raw.gz", true, Compression::Gzip),
    ("raw.zst", true, Compression::Zstd),
    ("raw.xz", true, Compression::Xz),
];

impl ExportFormat {
    /// Parses a format.
    ///
    /// # Errors
    /// An unknown one.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let found = ENDINGS.iter().find(|(ending, ..)| *ending == text);
        found.map(|(_, is_disk, compression)| Self { is_disk: *is_disk, compression: *compression }).ok_or_else(|| {
            Error::usage(format!("'{text}' is not a format"))
                .with_hint("the formats are tar, tar.gz, tar.zst, tar.xz, and for disk images raw, raw.gz, raw.zst, raw.xz")
        })
    }

    /// Returns the text that [`Self::parse`] parses.
    pub(crate) fn as_text(self) -> &'static str {
        let is = |(_, is_disk, compression): &&(&str, bool, Compression)| {
            *is_disk == self.is_disk && *compression == self.compression
        };
        ENDINGS.iter().find(is).map_or("tar", |(ending, ..)| *ending)
    }

    /// Returns the format for a name.
    ///
    /// # Errors
    /// A name without a known ending.
    pub(crate) fn of_name(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let of = |(ending, ..): &&(&str, bool, Compression)| {
            name.strip_suffix(ending).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1)
        };
        let found = ENDINGS.iter().find(of).map(|(ending, ..)| *ending);
        found.map_or_else(
            || {
                Err(Error::usage(format!("the name '{name}' does not end in a format"))
                    .with_hint("choose one like 'web.tar.zst', or give a format: --format=tar.zst"))
            },
            Self::parse,
        )
    }

    /// Returns the format for a stream: that of the image without compression.
    pub(crate) fn plain(image: &RootSource) -> Self {
        Self { is_disk: matches!(image, RootSource::Image(_)), compression: Compression::Plain }
    }

    /// Refuses a format that is not that of an image.
    ///
    /// # Errors
    /// Such a format.
    pub(super) fn check(self, image: &RootSource) -> Result<()> {
        match (image, self.is_disk) {
            (RootSource::Image(_), false) => Err(Error::new("a disk image is not exported as an archive")
                .with_hint("export it with the ending 'raw', 'raw.zst', 'raw.xz' or 'raw.gz'")),
            (RootSource::Directory(_) | RootSource::Stack(_), true) => {
                Err(Error::new("a tree is not exported as a disk image")
                    .with_hint("export it with the ending 'tar', 'tar.zst', 'tar.xz' or 'tar.gz'"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_in_formats() {
        for (name, format) in
            [("web.tar", "tar"), ("a.b.tar.zst", "tar.zst"), ("web.tgz", "tar.gz"), ("d.raw.xz", "raw.xz")]
        {
            assert_eq!(ExportFormat::of_name(Path::new(name)).unwrap(), ExportFormat::parse(format).unwrap());
        }
        for name in ["web", "tar", ".tar", "web.zip", "webtar"] {
            assert!(ExportFormat::of_name(Path::new(name)).unwrap_err().hint().is_some(), "{name}");
        }
    }
}
