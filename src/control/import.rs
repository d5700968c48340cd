//! `import`: a new image from an archive, a disk image, an OCI image or a directory. Called by `cli`.

use super::copy::{LinkMode, archive};
use super::progress::Progress;
use crate::error::{Context, Error, Result};
use crate::host::systemd::journal;
use crate::image::import::{
    self, ImageSelection, ImportRequest, ImportSource, Imported, ImportedKind, ImportedOci,
};
use crate::image::oci::names::{Transport, TransportName};
use crate::image::recovery;
use crate::image::snapshot::Tag;
use crate::machine::name::Name;
use crate::machine::size;
use crate::paths::Paths;
use crate::tree::usage;
use serde::Serialize;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) use crate::image::oci::platform::Platform;

/// The bytes sent to a job at once.
const CHUNK: usize = 256 << 10;

/// The options of an import.
#[derive(Debug, Clone)]
pub(crate) struct ImportOptions {
    /// Whether no machine can change the image.
    pub(crate) is_read_only: bool,
    /// The limit of the bytes of all files.
    pub(crate) largest: Option<u64>,
    /// The platform of an OCI image. `None` for that of this host.
    pub(crate) platform: Option<Platform>,
}

/// A finished import.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ImportReport {
    name: Name,
    path: PathBuf,
    /// `directory`, `subvolume`, `disk` or `stack`.
    kind: &'static str,
    /// The bytes of all files.
    bytes: u64,
    duration_ms: u64,
    /// The stream that it comes from. `None` for a directory, and for a disk image that systemd-importd has converted.
    #[serde(flatten)]
    stream: Option<StreamReport>,
    /// The OCI image that it comes from.
    #[serde(flatten)]
    oci: Option<OciReport>,
    /// The snapshot that the former image has become.
    #[serde(skip_serializing_if = "Option::is_none")]
    former_state: Option<Tag>,
}

/// An imported OCI image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct OciReport {
    /// The number of layers.
    layers: usize,
    /// The number of those that other images have, too.
    shared_layers: usize,
    /// The number of entries of the other ones.
    new_entries: u64,
    /// The line about what a machine runs.
    runs: String,
    /// The ports that its services listen at.
    exposed_ports: Vec<String>,
    warnings: Vec<String>,
}

impl From<ImportedOci> for OciReport {
    fn from(image: ImportedOci) -> Self {
        let ImportedOci { layers, shared, entries, runs, ports, warnings } = image;
        Self { layers, shared_layers: shared, new_entries: entries, runs, exposed_ports: ports, warnings }
    }
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
    let ImportOptions { is_read_only, largest, platform } = options;
    let named = source.to_str().and_then(TransportName::parse);
    let source = open(source, named.as_ref())?;
    let (transport, tag) = named.map_or((None, None), |named| (Some(named.transport), named.tag));
    let selection = ImageSelection { transport, tag, platform, origin: None };
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
    let (selection, former) = (&selection, None);
    let request = ImportRequest { paths, source, selection, name: &name, is_read_only, largest, former };
    let imported = import::import(request, &mut advance)?;
    Ok(ImportReport::of(name, imported, super::milliseconds(since.elapsed())))
}

/// The source of an import by a user without the rights of root, who reads it.
pub(crate) enum OwnSource {
    /// A stream, and its size if it is known.
    Stream(File, Option<u64>),
    /// A directory, which becomes an archive.
    Directory(archive::OwnSource),
}

impl OwnSource {
    /// Opens a source. Returns it with the name of the image.
    ///
    /// # Errors
    /// A source that this user must not read, the name of an OCI image, or no name for the image.
    pub(crate) fn open(source: &Path, name: Option<&Name>) -> Result<(Self, Name)> {
        if source.to_str().and_then(TransportName::parse).is_some() {
            return Err(Error::new(format!("importing '{}' needs root", source.display()))
                .with_hint("run it with sudo(8), or name a file"));
        }
        let opened = ImportSource::open(source)?;
        let name = name.map_or_else(|| opened.name(), |name| Ok(name.clone()))?;
        let own = match opened {
            ImportSource::Stream { file, size, .. } => Self::Stream(file, size),
            ImportSource::Directory { path, .. } => {
                Self::Directory(archive::OwnSource::open(&path, LinkMode::Follow)?)
            }
        };
        Ok((own, name))
    }

    /// Writes the source to the job that imports it as this image.
    ///
    /// # Errors
    /// A file that cannot be read, or any write error.
    pub(crate) fn send(self, name: &Name, to: &mut dyn Write, progress: &mut Progress<'_>) -> Result<()> {
        let (mut file, size) = match self {
            Self::Stream(file, size) => (file, size),
            Self::Directory(directory) => {
                let progress = std::mem::replace(progress, Progress::silent());
                return directory.pack_as(Path::new("."), to, progress);
            }
        };
        let total = || size;
        let mut bar = progress.bar(name.as_str(), &total)?;
        let (mut buffer, mut sent) = (vec![0; CHUNK], 0);
        loop {
            let length = match file.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.context(|| "cannot read the source")?,
            };
            let Some(part @ [_, ..]) = buffer.get(..length) else { return Ok(()) };
            to.write_all(part).context(|| "cannot send the source")?;
            sent += length as u64;
            bar.advance(sent)?;
        }
    }
}

/// Opens the source of a path, or of a name of an OCI image.
fn open(source: &Path, named: Option<&TransportName>) -> Result<ImportSource> {
    let Some(named) = named else { return ImportSource::open(source) };
    let opened = ImportSource::open(&named.path)?;
    let is_directory = matches!(opened, ImportSource::Directory { .. });
    match (named.transport, is_directory) {
        (Transport::OciDirectory, false) => {
            Err(Error::usage(format!("{} is not a directory", opened.shown()))
                .with_hint(format!("an archive is named 'oci-archive:{}'", named.path.display())))
        }
        (Transport::OciArchive | Transport::DockerArchive, true) => {
            Err(Error::usage(format!("{} is a directory", opened.shown()))
                .with_hint(format!("a directory is named 'oci:{}'", named.path.display())))
        }
        _ => Ok(opened),
    }
}

impl ImportReport {
    /// Reports an import.
    pub(super) fn of(name: Name, imported: Imported, duration_ms: u64) -> Self {
        let kind = match imported.kind {
            ImportedKind::Directory => "directory",
            ImportedKind::Subvolume => "subvolume",
            ImportedKind::Disk => "disk",
            ImportedKind::Stack => "stack",
        };
        let stream = imported.stream.map(|stream| StreamReport {
            compression: stream.compression,
            digest: stream.digest,
            entries: stream.entries,
            left_out: stream.left_out,
            root: stream.root.map(|root| journal::printable_line(root.as_encoded_bytes())),
        });
        let oci = imported.oci.map(OciReport::from);
        let (path, bytes, former_state) = (imported.path, imported.bytes, imported.former);
        Self { name, path, kind, bytes, duration_ms, stream, oci, former_state }
    }

    /// Returns the name of the image.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the lines for a person.
    pub(crate) fn text(&self) -> String {
        let Self { name, kind, bytes, stream, .. } = self;
        let size = size::rounded(*bytes);
        let time = super::clone::duration_text(self.duration_ms);
        if let Some(oci) = &self.oci {
            let former = self.former_state.as_ref();
            let former = former
                .map_or_else(String::new, |tag| format!("\n{name}: its former state is snapshot '{tag}'"));
            return oci.text(name, &size, &time) + &former;
        }
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

impl OciReport {
    /// Returns the lines for a person.
    fn text(&self, name: &Name, size: &str, time: &str) -> String {
        let Self { layers, shared_layers, new_entries, runs, exposed_ports, warnings } = self;
        let layers = if *layers == 1 { "1 layer".to_owned() } else { format!("{layers} layers") };
        let new = match (*shared_layers, *new_entries) {
            (0, entries) => format!("{entries} entries, {size}"),
            (shared, entries) => format!("{shared} of them shared, {entries} new entries, {size}"),
        };
        let mut text = format!("{name}: stack on {layers}, {new} in {time}\n{name}: {runs}");
        if !exposed_ports.is_empty() {
            text += &format!("\n{name}: its services listen at {}", exposed_ports.join(", "));
        }
        warnings.iter().for_each(|warning| text += &format!("\nwarning: {warning}"));
        text
    }
}
