//! `export`: an image as an archive, an OCI image or a disk image. Called by `cli`. A running machine is exported from a
//! snapshot, for which it is paused for a moment.

use super::clone::{CloneSource, duration_text};
use super::progress::Progress;
use super::snapshots::Hold;
use crate::error::{Context, Error, Result};
use crate::host::lock::LockMode;
use crate::image::export::{self, ExportDestination, ExportFile, ExportFormat, OciExport};
use crate::image::find;
use crate::image::locks::{self, HeldLocks};
use crate::image::oci::names::TransportName;
use crate::image::snapshot::{self, Quiet, Snapshots, Tag};
use crate::image::{oci_config, recovery};
use crate::machine::root::RootSource;
use crate::machine::size;
use crate::paths::Paths;
use crate::tree::copy::CopyProgress;
use crate::tree::usage;
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) use crate::image::export::ExportFormat as Format;

/// The options of an export.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExportOptions {
    /// The format. `None` for that of the destination's name.
    pub(crate) format: Option<ExportFormat>,
    /// The latest time of files, seconds (`SOURCE_DATE_EPOCH`).
    pub(crate) latest: Option<i64>,
    /// Whether the layers of an OCI image are merged.
    pub(crate) squash: bool,
}

/// The destination of an export.
enum Destination {
    /// A file or a stream in a format.
    Plain(ExportDestination),
    /// An OCI image.
    Oci(TransportName),
}

/// A finished export.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ExportReport {
    source: String,
    /// The file. `None` for standard output.
    path: Option<PathBuf>,
    /// The number of entries of an archive.
    entries: Option<u64>,
    /// The number of layers of an OCI image.
    layers: Option<usize>,
    /// The bytes of all files.
    bytes: u64,
    duration_ms: u64,
    /// The time for which a running machine was paused. `None` for an image that does not run.
    paused_ms: Option<u64>,
}

/// Exports an image, or one of its snapshots, to a file; `-` is standard output.
///
/// # Errors
/// A missing image, an existing file, or a file that cannot be read or written. No file is left then.
pub(crate) fn export(
    paths: &Paths,
    source: &CloneSource,
    destination: &Path,
    options: ExportOptions,
    progress: &mut Progress<'_>,
) -> Result<ExportReport> {
    let doing = || format!("cannot export '{source}'");
    let to = open(destination)?;
    recovery::recover(paths);
    let image = match source.tag() {
        Some(tag) => snapshot::find(paths, source.name(), Some(tag))?.source(),
        None => find::existing(paths, source.name())?,
    };
    let format = format_of(&to, &image, options)?;
    let config = match source.tag() {
        Some(tag) => snapshot::config_of(paths, source.name(), tag),
        None => oci_config::of_name(paths, source.name()),
    };
    let since = Instant::now();
    let total = || usage::of(image.path()).ok();
    let mut bar = progress.bar(source.name().as_str(), &total)?;
    let mut advance = |bytes| bar.advance(bytes);
    let mut write = |image: &RootSource| match &to {
        Destination::Plain(to) => export::export(image, to, format, options.latest, &mut advance),
        Destination::Oci(to) => {
            let ExportOptions { squash, latest, .. } = options;
            let config = config.as_deref();
            export::export_oci(
                image,
                OciExport { to, name: source.name(), config, squash, latest },
                &mut advance,
            )
        }
    };
    let (exported, paused_ms) = match source.tag() {
        Some(_) => {
            let _snapshots = Snapshots::lock(paths, source.name())?;
            (write(&image), None)
        }
        None => match Hold::that_changes(paths, &image)? {
            None => {
                let mut held = HeldLocks::default();
                held.take(paths, locks::of_path(paths, image.path(), LockMode::Shared)?)?;
                (write(&image), None)
            }
            Some(hold) => of_running(paths, source, &image, hold, &mut write)?,
        },
    };
    let exported = exported.map_err(|error| error.context(doing()))?;
    let path = match to {
        Destination::Plain(ExportDestination::File(path)) => Some(path),
        Destination::Oci(to) => Some(to.path),
        Destination::Plain(ExportDestination::Stdout) => None,
    };
    Ok(ExportReport {
        source: source.to_string(),
        path,
        entries: exported.entries,
        layers: exported.layers,
        bytes: exported.bytes,
        duration_ms: super::milliseconds(since.elapsed()),
        paused_ms,
    })
}

/// The destination of an export by a user without the rights of root, who writes it.
pub(crate) struct OwnDestination {
    file: ExportFile,
    to: File,
    path: PathBuf,
}

impl OwnDestination {
    /// Creates the file of a destination. Returns it with the format for the job. `None` in place of the file for
    /// standard output.
    ///
    /// # Errors
    /// An existing file, an OCI image, or a name without a format.
    pub(crate) fn create(
        destination: &Path,
        format: Option<ExportFormat>,
    ) -> Result<(Option<Self>, Option<ExportFormat>)> {
        match open(destination)? {
            Destination::Oci(_) => Err(Error::new("exporting OCI images needs root")
                .with_hint("run it with sudo(8), or name a file")),
            Destination::Plain(ExportDestination::Stdout) => Ok((None, format)),
            Destination::Plain(ExportDestination::File(path)) => {
                let format = format.map_or_else(|| ExportFormat::of_name(&path), Ok)?;
                let (file, to) = ExportFile::create(&path)?;
                Ok((Some(Self { file, to, path }), Some(format)))
            }
        }
    }

    /// Writes what the job has read. The file appears with [`Self::publish`].
    ///
    /// # Errors
    /// Any error of a read or write.
    pub(crate) fn write(mut self, from: &mut dyn Read) -> Result<Self> {
        std::io::copy(from, &mut self.to).context(|| format!("cannot write '{}'", self.path.display()))?;
        Ok(self)
    }

    /// Gives the file its name. Returns the line for a person.
    ///
    /// # Errors
    /// An existing file of this name.
    pub(crate) fn publish(self, source: &CloneSource) -> Result<String> {
        let size = self.to.metadata().map_or(0, |found| found.len());
        self.file.publish()?;
        Ok(format!("{source}: wrote {} to '{}'", size::rounded(size), self.path.display()))
    }
}

/// Returns the format of an export; an OCI image has none.
fn format_of(to: &Destination, image: &RootSource, options: ExportOptions) -> Result<ExportFormat> {
    match (to, options.format) {
        (Destination::Oci(_), Some(_)) => {
            Err(Error::usage("--format= is not for OCI images").with_hint("omit it"))
        }
        (Destination::Plain(_), _) if options.squash => {
            Err(Error::usage("--squash is for OCI images").with_hint("any other export has one tree"))
        }
        (_, Some(format)) => Ok(format),
        (Destination::Plain(ExportDestination::File(path)), None) => ExportFormat::of_name(path),
        (Destination::Plain(ExportDestination::Stdout) | Destination::Oci(_), None) => {
            Ok(ExportFormat::plain(image))
        }
    }
}

/// Exports a running machine from a snapshot, which is removed.
fn of_running(
    paths: &Paths,
    source: &CloneSource,
    image: &RootSource,
    mut hold: Hold<'_>,
    write: &mut dyn FnMut(&RootSource) -> Result<export::Exported>,
) -> Result<(Result<export::Exported>, Option<u64>)> {
    let name = source.name();
    let snapshots = Snapshots::lock(paths, name)?;
    let tag = Tag::for_clone();
    let mut quiet: Box<CopyProgress<'_>> = Box::new(|_| Ok(()));
    snapshot::take(&snapshots, (name, image), &tag, Quiet::Paused(&mut hold), &mut *quiet)
        .map_err(|error| error.context(format!("cannot save the state of machine '{name}'")))?;
    let found = snapshot::find(paths, name, Some(&tag));
    let exported = found.and_then(|found| write(&found.source()));
    snapshots.discard(&tag);
    Ok((exported, Some(super::milliseconds(hold.paused))))
}

/// Returns the destination: an OCI image, a new file, or a stream that is not a terminal.
fn open(destination: &Path) -> Result<Destination> {
    if let Some(mut named) = destination.to_str().and_then(TransportName::parse) {
        named.path = new_file(&named.path)?;
        return Ok(Destination::Oci(named));
    }
    if destination == Path::new("-") {
        if rustix::termios::isatty(rustix::stdio::stdout()) {
            return Err(Error::usage("refusing to write an archive to a terminal")
                .with_hint("redirect standard output to a file or a pipe, or name a file"));
        }
        return Ok(Destination::Plain(ExportDestination::Stdout));
    }
    new_file(destination).map(|path| Destination::Plain(ExportDestination::File(path)))
}

/// Returns the absolute path of a file that does not exist.
fn new_file(destination: &Path) -> Result<PathBuf> {
    let path =
        std::path::absolute(destination).context(|| format!("cannot resolve '{}'", destination.display()))?;
    let error = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => Error::new(format!("'{}' is a directory", path.display())),
        Ok(_) => Error::new(format!("'{}' exists already", path.display())),
        Err(_) => return Ok(path),
    };
    Err(error.with_hint("choose another name for the file"))
}

impl ExportReport {
    /// Returns the line for a person. `None` if the export is on standard output.
    pub(crate) fn text(&self) -> Option<String> {
        let (path, size) = (self.path.as_ref()?, size::rounded(self.bytes));
        let entries = self.entries.map_or_else(String::new, |entries| format!("{entries} entries, "));
        let layers = match self.layers {
            None => String::new(),
            Some(1) => "1 layer, ".to_owned(),
            Some(layers) => format!("{layers} layers, "),
        };
        let time = duration_text(self.duration_ms);
        let paused = self.paused_ms.map_or_else(String::new, |paused| format!(" (paused {paused} ms)"));
        Some(format!("{}: {layers}{entries}{size} to '{}' in {time}{paused}", self.source, path.display()))
    }
}
