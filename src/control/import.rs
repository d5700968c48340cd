//! `import`: a new image from an archive, a disk image or a directory. Called by `cli`.

use super::progress::Progress;
use crate::error::Result;
use crate::host::systemd::journal;
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
    /// The bytes of all files.
    bytes: u64,
    duration_ms: u64,
    /// The stream that it comes from. `None` for a directory, and for a disk image that systemd-importd has converted.
    #[serde(flatten)]
    stream: Option<StreamReport>,
}

/// An imported stream.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct StreamReport {
    compression: &'static str,
    /// The SHA-256 digest.
    digest: String,
    /// The number of entries of an archive.
    entries: Option<u64>,
    /// The line about everything left out.
    left_out: Option<String>,
    /// The directory of the archive that is the root; all else in the archive is discarded.
    root: Option<String>,
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
    let kind = match imported.kind {
        ImportedKind::Directory => "directory",
        ImportedKind::Subvolume => "subvolume",
        ImportedKind::Disk => "disk",
    };
    let stream = imported.stream.map(|stream| StreamReport {
        compression: stream.compression,
        digest: stream.digest,
        entries: stream.entries,
        left_out: stream.left_out,
        root: stream.root.map(|root| journal::printable_line(root.as_encoded_bytes())),
    });
    let duration_ms = super::milliseconds(since.elapsed());
    Ok(ImportReport { name, path: imported.path, kind, bytes: imported.bytes, duration_ms, stream })
}

impl ImportReport {
    /// Returns the lines for a person.
    pub(crate) fn text(&self) -> String {
        let Self { name, kind, bytes, stream, .. } = self;
        let size = size::rounded(*bytes);
        let time = super::clone::duration_text(self.duration_ms);
        let Some(StreamReport { entries, left_out, root, .. }) = stream else {
            if *kind == "disk" {
                return format!(
                    "{name}: disk image with {size} of data in {time}, converted by systemd-importd"
                );
            }
            return format!("{name}: {kind}, copied {size} in {time}");
        };
        let what = match entries {
            None => format!("disk image with {size} of data"),
            Some(entries) => format!("{kind} with {entries} entries, {size}"),
        };
        let root = root.as_ref().map_or_else(String::new, |root| format!(", from '{root}' in the archive"));
        let left_out = left_out.as_ref().map_or_else(String::new, |line| format!("\nwarning: {line}"));
        format!("{name}: {what} in {time}{root}{left_out}")
    }
}
