//! Imports a tree, a disk image or an OCI image from a file, a stream or a directory as a new image. What is read is
//! not trusted: it is decoded and extracted by confined processes. Until it is complete the image has a hidden name.
//! Called by `control`.

mod bzip2;
mod compression;
mod decode;
mod decoded;
mod digester;
mod disk_file;
mod extractor;
mod oci;
mod pipeline;
mod qcow2;
mod replaced;
mod root;
mod source;

pub(crate) use compression::Compression;
pub(crate) use decoded::DecodedStream;
pub(super) use oci::choose_platform;
pub(crate) use oci::{ImageSelection, ImportedOci, Origin};
pub(crate) use source::ImportSource;

use super::disk::bytes::OpenDisk;
use super::disk::partitions;
use super::locks::{self, HeldLocks};
use super::snapshot::Tag;
use super::store::Store;
use super::store::draft::{self, Draft, DraftContent};
use super::{clone, read_only};
use crate::error::{Context, Error, Result};
use crate::host::idmap;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::id_ranges::{self, RangeRetention};
use crate::sys::mount::{self, Depth, MountAttributes};
use crate::sys::{btrfs, read_only as flags};
use crate::tree;
use crate::tree::copy::CopyProgress;
use crate::tree::tar::policy::{self, Limits};
use extractor::{StreamContent, StreamUse};
use oci::{Layout, StackOptions};
use pipeline::{Destination, ExtractedStream};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The number of ids of the extractor: those of a machine.
const IDS: u32 = 65536;

/// A request for an import.
pub(crate) struct ImportRequest<'a> {
    /// The places of Coracle.
    pub(crate) paths: &'a Paths,
    /// The source.
    pub(crate) source: ImportSource,
    /// The choice among its OCI images.
    pub(crate) selection: &'a ImageSelection,
    /// The name of the new image.
    pub(crate) name: &'a Name,
    /// Whether no machine can change the image.
    pub(crate) is_read_only: bool,
    /// The limit of the bytes of all files. `None` for the free space of the file system, less 5 %.
    pub(crate) largest: Option<u64>,
    /// The snapshot that an existing stack of this name becomes. `None` if it is not replaced.
    pub(crate) former: Option<Tag>,
}

/// The kind of a new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImportedKind {
    /// A directory.
    Directory,
    /// A subvolume.
    Subvolume,
    /// A disk image.
    Disk,
    /// A stack.
    Stack,
}

/// A finished import.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The path of the image.
    pub(crate) path: PathBuf,
    /// Its kind.
    pub(crate) kind: ImportedKind,
    /// The bytes of all files.
    pub(crate) bytes: u64,
    /// The stream that it comes from. `None` for a directory.
    pub(crate) stream: Option<ImportedStream>,
    /// The OCI image that it comes from, if it is one.
    pub(crate) oci: Option<ImportedOci>,
    /// The snapshot that the former stack has become. `None` if there was none.
    pub(crate) former: Option<Tag>,
}

/// An imported stream.
#[derive(Debug)]
pub(crate) struct ImportedStream {
    /// Its compression.
    pub(crate) compression: &'static str,
    /// Its SHA-256 digest, hexadecimal.
    pub(crate) digest: String,
    /// The number of entries of an archive.
    pub(crate) entries: Option<u64>,
    /// The line about everything left out.
    pub(crate) left_out: Option<String>,
    /// The directory of the archive that is the root; all else in the archive is discarded.
    pub(crate) root: Option<OsString>,
}

/// Imports an image. `progress` is called with the bytes read from the source.
///
/// # Errors
/// An existing image of this name, a source that is refused, or a file that cannot be created. Nothing is left
/// then.
pub(crate) fn import(mut request: ImportRequest<'_>, progress: &mut CopyProgress<'_>) -> Result<Imported> {
    let ImportRequest { paths, name, .. } = request;
    let shown = request.source.shown();
    let options = (request.is_read_only, request.largest);
    let imported = match request.source.qcow2() {
        Some(file) => qcow2::import(paths, name, file, options, progress),
        None => import_source(paths, name, &mut request, progress),
    };
    imported.map_err(|error| error.context(format!("cannot import {shown} as '{name}'")))
}

/// A request for a version of an image.
pub(crate) struct VersionRequest<'a> {
    /// The places of Coracle.
    pub(crate) paths: &'a Paths,
    /// The name of the image.
    pub(crate) name: &'a Name,
    /// The source.
    pub(crate) source: ImportSource,
    /// The path of the version, without the suffix of a disk image.
    pub(crate) path: PathBuf,
    /// Whether the image is a disk image.
    pub(crate) is_disk: bool,
    /// The limit of the bytes of all files, as for [`ImportRequest`].
    pub(crate) largest: Option<u64>,
}

/// Imports a version of an image.
///
/// # Errors
/// A source that is refused or of another kind, or a file that cannot be created. Nothing is left then.
pub(crate) fn import_version(
    request: VersionRequest<'_>,
    progress: &mut CopyProgress<'_>,
) -> Result<Imported> {
    let VersionRequest { paths, name, source, path, is_disk, largest } = request;
    let shown = source.shown();
    path.parent().into_iter().for_each(draft::sweep_images);
    draft::sweep_store(&Store::of(paths));
    let selection = &ImageSelection::default();
    let is_read_only = false;
    let mut request = ImportRequest { paths, source, selection, name, is_read_only, largest, former: None };
    write_image(&mut request, path, Some(is_disk), progress)
        .map_err(|error| error.context(format!("cannot import {shown}")))
}

/// Refuses an image of a name that cannot be replaced, before anything is fetched for that. A missing one is no error.
///
/// # Errors
/// Such an image.
pub(super) fn refuse_unreplaceable(paths: &Paths, name: &Name) -> Result<()> {
    replaced::lock(paths, name, &mut HeldLocks::default()).map(drop)
}

fn import_source(
    paths: &Paths,
    name: &Name,
    request: &mut ImportRequest<'_>,
    progress: &mut CopyProgress<'_>,
) -> Result<Imported> {
    let path = paths.images().join(name.as_str());
    let mut held = HeldLocks::default();
    if request.former.is_some() && replaced::lock(paths, name, &mut held)? {
        return write_image(request, path, None, progress);
    }
    request.former = None;
    clone::refuse_existing(paths, name)?;
    clone::create_directory(&paths.images())?;
    draft::sweep_images(&paths.images());
    draft::sweep_store(&Store::of(paths));
    held.take(paths, [locks::of_name(paths, name, &path)])?;
    // Another import may have created it since.
    clone::refuse_existing(paths, name)?;
    write_image(request, path, None, progress)
}

/// Writes an image and publishes it. `is_disk` is the required kind.
fn write_image(
    request: &mut ImportRequest<'_>,
    path: PathBuf,
    is_disk: Option<bool>,
    progress: &mut CopyProgress<'_>,
) -> Result<Imported> {
    let draft = Draft::of_image(&path)?;
    let (directory, kind) = create(&draft)?;
    let ImportRequest { paths, name, is_read_only, largest, .. } = *request;
    match &mut request.source {
        ImportSource::Directory { .. } if is_disk == Some(true) => Err(other_kind(true)),
        ImportSource::Directory { directory: from, .. } => {
            if let Some(layout) = find_layout(from.as_fd(), request.selection)? {
                drop(draft);
                return import_layout(request, is_disk, &layout, None, progress);
            }
            let mut limited = |bytes| match largest {
                Some(largest) if bytes > largest => Err(policy::larger_than(largest)),
                _ => progress(bytes),
            };
            let copied = tree::copy::copy_into(from.as_fd(), directory, &mut limited)?;
            // Also files that share all of their blocks.
            limited(copied.bytes)?;
            publish(draft, &path, is_read_only)?;
            Ok(Imported { path, kind, bytes: copied.bytes, stream: None, oci: None, former: None })
        }
        ImportSource::Stream { file, .. } => {
            let limits = Limits::of_bytes(largest.map_or_else(|| free(directory.as_fd()), Ok)?);
            let to = destination(paths, name, directory.as_fd(), limits, largest.is_none())?;
            let stream = pipeline::extract(file, to.destination, progress)?;
            let found = stream.extracted.content == StreamContent::Disk;
            if is_disk.is_some_and(|is_disk| is_disk != found) {
                return Err(other_kind(!found));
            }
            drop(to.ids);
            let is_tree = stream.extracted.content == StreamContent::Tree;
            let layout = if is_tree { find_layout(directory.as_fd(), request.selection)? } else { None };
            match layout {
                Some(layout) => import_layout(request, is_disk, &layout, Some(stream), progress),
                None => complete((draft, directory, kind), path, stream, is_read_only, progress),
            }
        }
    }
}

/// Returns the error for a version of another kind than the image.
fn other_kind(is_disk_required: bool) -> Error {
    let (found, required) = match is_disk_required {
        true => ("a tree", "a disk image"),
        false => ("a disk image", "a directory"),
    };
    Error::new(format!("it is {found}, and the image is {required}"))
        .with_hint("a version has the kind of its image: import it as another image")
}

/// Recognises a directory with OCI images.
fn find_layout(directory: BorrowedFd<'_>, selection: &ImageSelection) -> Result<Option<Layout>> {
    let layout = Layout::find(directory)?;
    if layout.is_none() && (selection.transport.is_some() || selection.tag.is_some()) {
        return Err(Error::new("it is neither a layout of OCI images nor an archive of Docker")
            .with_hint("it has no file 'oci-layout' or 'manifest.json'"));
    }
    Ok(layout)
}

/// Imports an image of a layout, which may be extracted from a stream. A required kind is not that of a stack.
fn import_layout(
    request: &ImportRequest<'_>,
    required_disk: Option<bool>,
    layout: &Layout,
    stream: Option<ExtractedStream>,
    progress: &mut CopyProgress<'_>,
) -> Result<Imported> {
    let ImportRequest { paths, name, selection, is_read_only, largest, .. } = *request;
    let former = request.former.as_ref();
    if required_disk.is_some() {
        return Err(Error::new("it has OCI images, which become stacks")
            .with_hint("a version is a directory or a disk image: import it as another image"));
    }
    let options = StackOptions { selection, is_read_only, largest, former };
    let imported = oci::import(paths, name, layout, options, progress)?;
    let stream = stream.map(|stream| ImportedStream {
        compression: stream.compression.name(),
        digest: stream.digest,
        entries: None,
        left_out: None,
        root: None,
    });
    let oci::StackImport { path, bytes, image } = imported;
    let former = request.former.clone();
    Ok(Imported { path, kind: ImportedKind::Stack, bytes, stream, oci: Some(image), former })
}

/// Publishes what the extractor has written: the tree, a directory in it, or a disk image.
fn complete(
    (draft, directory, kind): (Draft, OwnedFd, ImportedKind),
    path: PathBuf,
    stream: ExtractedStream,
    is_read_only: bool,
    progress: &mut CopyProgress<'_>,
) -> Result<Imported> {
    let ExtractedStream { extracted, compression, digest, .. } = stream;
    let is_tree = extracted.content == StreamContent::Tree;
    let root = if is_tree { root::find(directory.as_fd())? } else { None };
    // Its total is that of the source.
    let mut go_on = |_| progress(extracted.bytes);
    let (path, kind) = match &root {
        _ if !is_tree => (publish_disk(&directory, &path, is_read_only, &mut go_on)?, ImportedKind::Disk),
        Some(root) => {
            let draft = Draft::of_image(&path)?;
            take_out(&directory, root, &draft, &mut go_on)?;
            publish(draft, &path, is_read_only)?;
            (path, kind)
        }
        None => {
            publish(draft, &path, is_read_only)?;
            (path, kind)
        }
    };
    let stream = ImportedStream {
        compression: compression.name(),
        digest,
        entries: is_tree.then_some(extracted.entries),
        left_out: extracted.left_out.summary(),
        root,
    };
    Ok(Imported { path, kind, bytes: extracted.bytes, stream: Some(stream), oci: None, former: None })
}

/// Creates the draft: a subvolume on Btrfs.
fn create(draft: &Draft) -> Result<(OwnedFd, ImportedKind)> {
    if btrfs::lies_on(draft.directory()) && btrfs::create(draft.directory(), draft.name()).is_ok() {
        return Ok((read_only::open(&draft.path())?, ImportedKind::Subvolume));
    }
    Ok((draft.create_directory(0o700)?, ImportedKind::Directory))
}

/// Returns the bytes that an import may need: the free space less 5 %.
pub(super) fn free(directory: BorrowedFd<'_>) -> Result<u64> {
    let found = rustix::fs::fstatvfs(directory).context(|| "cannot find out the free space")?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize) / 100 * 95)
}

/// The destination of an extraction, and the lock of its ids.
struct LockedDestination {
    destination: Destination,
    /// Dropped after the extraction.
    ids: crate::host::lock::Held,
}

impl LockedDestination {
    /// Sets the use of the stream.
    fn with_use(mut self, stream_use: StreamUse) -> Self {
        self.destination.stream_use = stream_use;
        self
    }
}

/// Prepares the draft for the extractor: a mount that maps its throw-away ids to those on the disk.
fn destination(
    paths: &Paths,
    name: &Name,
    directory: BorrowedFd<'_>,
    limits: Limits,
    limits_ratio: bool,
) -> Result<LockedDestination> {
    let base = id_ranges::choose(paths, name, RangeRetention::WhileRunning, IDS)?;
    let ids = id_ranges::lock(paths, base)?.with_deletion();
    let mapping = [(0, base, IDS)];
    let mut users = idmap::namespace(&mapping, &mapping)?;
    let attributes =
        MountAttributes { no_setuid: true, no_devices: true, no_exec: true, ..Default::default() };
    let cloning = || "cannot create a mount for the extractor";
    let draft = mount::copy_tree(directory, Depth::One).context(cloning)?;
    if let Err(error) = mount::separate(draft.as_fd(), Some(users.as_fd()), attributes) {
        // KERNEL(6.3): tmpfs cannot map ids, overlays and network file systems still cannot.
        log::debug!(
            "the file system of the images cannot map ids: {error}, extracting with the ids of the disk"
        );
        let mapping = [(0, 0, IDS)];
        users = idmap::namespace(&mapping, &mapping)?;
        mount::separate(draft.as_fd(), None, attributes).context(cloning)?;
    }
    let stream_use = StreamUse::Image;
    Ok(LockedDestination { destination: Destination { draft, users, limits, limits_ratio, stream_use }, ids })
}

/// Publishes a tree.
fn publish(draft: Draft, path: &Path, is_read_only: bool) -> Result<()> {
    draft.publish(path, DraftContent::Data)?;
    if !is_read_only {
        return Ok(());
    }
    // A draft with the flag could not be renamed.
    read_only::open(path)
        .and_then(|directory| {
            flags::set(directory.as_fd(), true)
                .context(|| format!("cannot make '{}' read-only", path.display()))
        })
        .inspect_err(|_| clone::remove(path))
}

/// Makes a directory in the draft of a tree, or a file, another draft. No file leaves a subvolume by a rename: it is
/// copied, sharing its blocks, and a directory becomes a subvolume.
fn take_out(tree: &OwnedFd, name: &OsStr, draft: &Draft, progress: &mut CopyProgress<'_>) -> Result<()> {
    let creating = || format!("cannot create '{}'", draft.path().display());
    match rustix::fs::renameat_with(tree, name, draft.directory(), draft.name(), RenameFlags::NOREPLACE) {
        Err(Errno::XDEV) => {}
        renamed => return renamed.context(creating),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = rustix::fs::openat(tree, name, flags, Mode::empty()).context(creating)?;
    let found = rustix::fs::fstat(&from).context(creating)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        let (to, _) = create(draft)?;
        tree::copy::copy_into(from.as_fd(), to, progress).map(drop)
    } else {
        tree::copy::copy(from.as_fd(), draft.directory(), draft.name(), progress).map(drop)
    }
}

/// Publishes a disk image, which the extractor has written into the draft of a tree. Returns its path.
fn publish_disk(
    directory: &OwnedFd,
    path: &Path,
    is_read_only: bool,
    progress: &mut CopyProgress<'_>,
) -> Result<PathBuf> {
    let path = path.with_file_name(format!("{}.raw", path.file_name().unwrap_or_default().display()));
    let opening = || "cannot open the disk image";
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, disk_file::NAME, flags, Mode::empty()).context(opening)?;
    let found = rustix::fs::fstat(&file).context(opening)?;
    let size = u64::try_from(found.st_size).unwrap_or_default();
    let disk = OpenDisk::new(File::from(file), size);
    source::refuse_format(disk.file())?;
    partitions::read(&disk).map_err(|error| {
        Error::new("it is neither a tar archive nor a disk image that can be started")
            .with_hint(format!("as a disk image: {error}"))
    })?;
    let mode = if is_read_only { Mode::from_raw_mode(0o444) } else { Mode::from_raw_mode(0o644) };
    rustix::fs::fchmod(disk.file(), mode).context(opening)?;
    let draft = Draft::of_image(&path)?;
    take_out(directory, disk_file::NAME.as_ref(), &draft, progress)?;
    draft.publish(&path, DraftContent::Data)?;
    Ok(path)
}
