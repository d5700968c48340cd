//! Exports an image to a file or a stream: a tree as a tar archive or an OCI image, a disk image as it is. Archives are
//! sorted and depend on the tree alone. A file has a hidden name until it is complete. Called by `control`, which holds the
//! locks of the image.

mod disk;
mod encode;
mod format;
mod oci;

pub(crate) use format::ExportFormat;
pub(crate) use oci::OciExport;

use super::layers::Layers;
use super::stack::{Stack, StackBind};
use super::store::draft::{self, Draft, DraftContent};
use crate::error::{Context, Error, Result};
use crate::machine::root::RootSource;
use crate::sys::mount;
use crate::tree::copy::CopyProgress;
use crate::tree::entry::{Monitor, shown};
use crate::tree::id_mapping::IdMapping;
use crate::tree::tar::writer::Writer;
use crate::tree::walk::Walk;
use encode::Encoder;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The number of ids of a range (systemd's UIDS-GIDS).
const RANGE: u32 = 65536;

/// The destination of an export.
#[derive(Debug, Clone)]
pub(crate) enum ExportDestination {
    /// A new file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// A finished export.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exported {
    /// The number of entries of an archive.
    pub(crate) entries: Option<u64>,
    /// The bytes of all files.
    pub(crate) bytes: u64,
    /// The number of layers of an OCI image.
    pub(crate) layers: Option<usize>,
}

/// Exports an image as an OCI image. Its locks are held.
///
/// # Errors
/// As for [`export`].
pub(crate) fn export_oci(
    image: &RootSource,
    request: OciExport<'_>,
    progress: &mut CopyProgress<'_>,
) -> Result<Exported> {
    oci::export(image, request, progress)
}

/// Exports an image, whose locks are held. No file in an archive is younger than `latest` seconds. `progress` is
/// called with the bytes read.
///
/// # Errors
/// An existing file, a format that is not that of the image, or a file that cannot be read or written. No file is
/// left then.
pub(crate) fn export(
    image: &RootSource,
    to: &ExportDestination,
    format: ExportFormat,
    latest: Option<i64>,
    progress: &mut CopyProgress<'_>,
) -> Result<Exported> {
    format.check(image)?;
    match to {
        ExportDestination::Stdout => {
            let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3);
            let output = output.context(|| "cannot open standard output")?;
            write(image, File::from(output), format, latest, progress)
        }
        ExportDestination::File(path) => {
            let (file, to) = ExportFile::create(path)?;
            let exported = write(image, to, format, latest, progress)?;
            file.publish()?;
            Ok(exported)
        }
    }
}

/// A new file for an export, under a hidden name.
pub(crate) struct ExportFile {
    draft: Draft,
    path: PathBuf,
}

impl ExportFile {
    /// Creates the file. Returns it open for writing, too.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub(crate) fn create(path: &Path) -> Result<(Self, File)> {
        if let Some(directory) = path.parent() {
            draft::sweep_images(directory);
        }
        let draft = Draft::of_image(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        // It contains the secrets of the image.
        let file = rustix::fs::openat(draft.directory(), draft.name(), flags, Mode::RUSR | Mode::WUSR);
        let file = file.context(|| format!("cannot create '{}'", path.display()))?;
        Ok((Self { draft, path: path.to_owned() }, File::from(file)))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// An existing file of this name.
    pub(crate) fn publish(self) -> Result<()> {
        self.draft.publish(&self.path, DraftContent::Data)
    }
}

fn write(
    image: &RootSource,
    to: File,
    format: ExportFormat,
    latest: Option<i64>,
    progress: &mut CopyProgress<'_>,
) -> Result<Exported> {
    if let RootSource::Image(path) = image {
        let bytes = disk::write(path, to, format.compression, progress)?;
        return Ok(Exported { entries: None, bytes, layers: None });
    }
    let encoder = BufWriter::with_capacity(256 << 10, Encoder::new(to, format.compression)?);
    let mut writer = Writer::new(encoder, Path::new("."), latest);
    let mut count = Count { entries: 0, bytes: 0, progress };
    match image {
        RootSource::Directory(path) => walk(&mount::open_directory(path)?, &mut writer, &mut count)?,
        RootSource::Stack(path) => write_stack(&Stack::read(path)?, &mut writer, &mut count)?,
        RootSource::Image(_) => {}
    }
    let encoder = writer.finish()?.into_inner();
    encoder.map_err(|error| Error::from(error.into_error())).and_then(Encoder::finish)?;
    Ok(Exported { entries: Some(count.entries), bytes: count.bytes, layers: None })
}

/// Writes the merged tree of a stack, then its volumes. What they cover is not in the archive.
fn write_stack<W: Write>(stack: &Stack, writer: &mut Writer<W>, count: &mut Count<'_>) -> Result<()> {
    let layers = Layers::of_host();
    let name = |target: &Path| Path::new(".").join(target.strip_prefix("/").unwrap_or(target));
    let usr = stack.usr.iter().map(|_| name(Path::new("/usr")));
    writer.hide(stack.binds.iter().map(|bind| name(&bind.target)).chain(usr).collect());
    walk(&layers.read_only(&stack.root)?, writer, count)?;
    if let Some(usr) = &stack.usr {
        writer.set_name(&name(Path::new("/usr")));
        walk(&layers.read_only(usr)?, writer, count)?;
    }
    for StackBind { source, target, .. } in &stack.binds {
        writer.set_name(&name(target));
        walk(&layers.copy(source, true)?, writer, count)?;
    }
    Ok(())
}

/// Writes a tree with owners as inside the machine.
fn walk<W: Write>(root: &OwnedFd, writer: &mut Writer<W>, count: &mut Count<'_>) -> Result<()> {
    let owner = rustix::fs::fstat(root).context(|| "cannot inspect the root")?.st_uid;
    let ids = if owner >= RANGE { IdMapping::from(owner - owner % RANGE) } else { IdMapping::HOST };
    Walk::run_exactly_as(root, ids, writer, count)
}

/// Counts entries and bytes.
struct Count<'a> {
    entries: u64,
    bytes: u64,
    progress: &'a mut CopyProgress<'a>,
}

impl Monitor for Count<'_> {
    fn count_entry(&mut self) -> Result<()> {
        self.entries += 1;
        (self.progress)(self.bytes)
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        (self.progress)(self.bytes)
    }

    fn skip(&mut self, path: &Path, reason: &str) {
        log::warn!("skipping {}: {reason}", shown(path, "the image"));
    }

    fn interrupts(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
