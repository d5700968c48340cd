//! `update`: a new version of an image. Called by `cli`.

use super::clone::duration_text;
use super::progress::Progress;
use super::remove;
use crate::error::Result;
use crate::image::import::ImportSource;
use crate::image::update::{self, UpdateRequest};
use crate::image::{find, recovery};
use crate::machine::name::Name;
use crate::machine::size;
use crate::paths::Paths;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The options of an update.
#[derive(Debug, Clone)]
pub(crate) struct UpdateOptions {
    /// The version. `None` for the present time.
    pub(crate) version: Option<String>,
    /// The number of boot attempts.
    pub(crate) tries: u32,
    /// The limit of the bytes of all files.
    pub(crate) largest: Option<u64>,
}

/// An added version.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct UpdateReport {
    name: Name,
    version: String,
    path: PathBuf,
    /// The number of boot attempts.
    tries: u32,
    /// The bytes of all files.
    bytes: u64,
    duration_ms: u64,
    /// The line about everything left out of an archive.
    left_out: Option<String>,
}

/// Adds a version to an image, which may be in use.
///
/// # Errors
/// A missing image, a version that is not newer, a source that is refused, or a file that cannot be created. An image
/// without versions must not be in use.
pub(crate) fn update(
    paths: &Paths,
    name: &Name,
    source: &Path,
    options: &UpdateOptions,
    progress: &mut Progress<'_>,
) -> Result<UpdateReport> {
    let source = ImportSource::open(source)?;
    source.check(&paths.images())?;
    recovery::recover(paths);
    let image = find::by_name(paths, name);
    let others = image.map_or_else(|| Ok(Vec::new()), |image| remove::on(paths, name, image.path()))?;
    let since = Instant::now();
    let size = source.size();
    let total = || size;
    let mut bar = progress.bar(name.as_str(), &total)?;
    let UpdateOptions { version, tries, largest } = options;
    let request = UpdateRequest {
        paths,
        name,
        source,
        version: version.as_deref(),
        tries: *tries,
        largest: *largest,
        others: &others,
    };
    let (version, imported) = update::update(request, &mut |bytes| bar.advance(bytes))?;
    Ok(UpdateReport {
        name: name.clone(),
        version,
        path: imported.path,
        tries: *tries,
        bytes: imported.bytes,
        duration_ms: super::milliseconds(since.elapsed()),
        left_out: imported.stream.and_then(|stream| stream.left_out),
    })
}

impl UpdateReport {
    /// Returns the lines for a person.
    pub(crate) fn text(&self) -> String {
        let Self { name, version, tries, bytes, .. } = self;
        let (size, time) = (size::rounded(*bytes), duration_text(self.duration_ms));
        let left_out = self.left_out.as_ref().map_or_else(String::new, |line| format!("\nwarning: {line}"));
        let attempts = if *tries == 1 { "1 attempt" } else { &format!("{tries} attempts") };
        format!(
            "{name}: version {version} with {size} in {time}; the next start tries it, {attempts}{left_out}"
        )
    }
}
