//! `import`: a new image from an archive, a disk image or a directory. Called by `cli`.

use super::progress::Progress;
use crate::error::Result;
use crate::image::import::{self, ImportRequest, ImportSource, ImportedKind};
use crate::image::recovery;
use crate::machine::name::Name;
use crate::machine::size;
use crate::paths::Paths;
use crate::tree::usage;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The options of an import.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImportOptions {
    /// Whether no machine can change the image.
    pub(crate) is_read_only: bool,
    /// The limit of the bytes of all files.
    pub(crate) largest: Option<u64>,
}

/// A finished import.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ImportReport {
    name: Name,
    path: PathBuf,
    /// `directory`, `subvolume` or `disk`.
    kind: &'static str,
    /// The compression of the source. `None` for a directory.
    compression: Option<&'static str>,
    /// The SHA-256 digest of the source. `None` for a directory.
    digest: Option<String>,
    /// The number of entries of an archive.
    entries: Option<u64>,
    /// The bytes of all files.
    bytes: u64,
    duration_ms: u64,
    /// The line about everything left out.
    left_out: Option<String>,
}

/// Imports an image; `-` is standard input. Without a name it is derived from the source.
///
/// # Errors
/// An existing image of the name, a source that is refused, or a file that cannot be created.
pub(crate) fn import(
    paths: &Paths,
    source: &Path,
    name: Option<&Name>,
    options: ImportOptions,
    progress: &mut Progress<'_>,
) -> Result<ImportReport> {
    let source = ImportSource::open(source)?;
    let name = name.map_or_else(|| source.name(), |name| Ok(name.clone()))?;
    source
        .check(&paths.images())
        .map_err(|error| error.context(format!("cannot import {} as '{name}'", source.shown())))?;
    recovery::recover(paths);
    let since = Instant::now();
    let size = source.size();
    let directory = match &source {
        ImportSource::Directory { path, .. } => Some(path.clone()),
        ImportSource::Stream { .. } => None,
    };
    let total = || directory.as_ref().map_or(size, |path| usage::of(path).ok());
    let mut bar = progress.bar(name.as_str(), &total)?;
    let mut advance = |bytes| bar.advance(bytes);
    let ImportOptions { is_read_only, largest } = options;
    let request = ImportRequest { paths, source, name: &name, is_read_only, largest };
    let imported = import::import(request, &mut advance)?;
    let (compression, digest) = imported.stream.unzip();
    Ok(ImportReport {
        kind: match imported.kind {
            ImportedKind::Directory => "directory",
            ImportedKind::Subvolume => "subvolume",
            ImportedKind::Disk => "disk",
        },
        path: imported.path,
        compression,
        digest,
        entries: imported.entries,
        bytes: imported.bytes,
        duration_ms: super::milliseconds(since.elapsed()),
        left_out: imported.left_out,
        name,
    })
}

impl ImportReport {
    /// Returns the lines for a person.
    pub(crate) fn text(&self) -> String {
        let Self { name, kind, entries, bytes, .. } = self;
        let size = size::rounded(*bytes);
        let time = super::clone::duration_text(self.duration_ms);
        let what = match (*kind, entries) {
            ("disk", _) => format!("disk image with {size} of data"),
            (kind, Some(entries)) => format!("{kind} with {entries} entries, {size}"),
            (kind, None) => format!("{kind}, copied {size}"),
        };
        let left_out = self.left_out.as_ref().map_or_else(String::new, |line| format!("\nwarning: {line}"));
        format!("{name}: {what} in {time}{left_out}")
    }
}
