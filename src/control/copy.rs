//! `copy-to` and `copy-from`: copies files and trees between the host and a machine by two processes: this one
//! on the host, and a child inside the running machine, or in the tree of a stopped one, with the capabilities
//! of the guest's root over files. No program
//! of the guest is executed, and no symbolic link leads out of either tree. Files from a guest lose their
//! set-user-ID and set-group-ID bits.

pub(crate) mod archive;
mod copy_state;
mod interrupted;
mod peer;
mod transfer;

pub(crate) use crate::tree::tree_writer::Replace;

use super::guest_child::GuestChild;
use super::interrupts::Interrupts;
use super::progress::Progress;
use crate::error::{Context, Error, Result};
use crate::image::import::DecodedStream;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::sys::guest_files::GuestRoot;
use crate::sys::process::{self, Side};
use crate::tree::entry::TreeSide;
use crate::tree::id_mapping::IdMapping;
use crate::tree::tar::extract::extract;
use crate::tree::tar::policy::Limits;
use crate::tree::tar::writer::Writer;
use crate::tree::tree_writer::TreeWriter;
use crate::tree::walk::Walk;
use copy_state::CopyState;
use interrupted::RecordFile;
use peer::CopyPeer;
use rustix::event::PollFlags;
use rustix::fd::{BorrowedFd, OwnedFd};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;
use transfer::Transfer;

/// The mode bits copied to a guest.
const ALL_BITS: u32 = 0o7777;
/// The mode bits copied from a guest: set-user-ID and set-group-ID bits would grant privileges on the host.
const HARMLESS_BITS: u32 = 0o1777;
/// The timeout for the child of a failed copy to remove its files.
const CLEANING: Duration = Duration::from_secs(30);

/// A request to copy files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyRequest<'a> {
    /// The machine.
    pub(crate) name: &'a Name,
    /// The source; `-` for an archive from standard input.
    pub(crate) source: &'a Path,
    /// The path of the one tree in the archive on standard input. `None` for an archive that is extracted into a
    /// directory.
    pub(crate) archived: Option<&'a Path>,
    /// The destination; `-` for an archive to standard output.
    pub(crate) destination: &'a Path,
    /// Whether to replace an existing destination.
    pub(crate) replace: Replace,
    /// The handling of a source that is a symbolic link.
    pub(crate) links: LinkMode,
    /// The owners of the copies.
    pub(crate) owners: CopyOwners,
}

/// The owners of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyOwners {
    /// Those of the source, as seen inside.
    Kept,
    /// Root: of the machine for files copied to it, of the host for files copied from it.
    Root,
}

impl CopyOwners {
    fn ids(self) -> IdMapping {
        match self {
            Self::Kept => IdMapping::HOST,
            Self::Root => IdMapping::ROOT,
        }
    }
}

/// The handling of a source that is a symbolic link. Links below the source are copied as links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkMode {
    /// Copy the file that it leads to, inside the same tree.
    Follow,
    /// Copy the link.
    Keep,
}

/// Copies from the host into a machine.
///
/// # Errors
/// A file that cannot be copied. The destination is unchanged then.
pub(crate) fn copy_to(paths: &Paths, request: &CopyRequest<'_>, progress: Progress<'_>) -> Result<()> {
    require_absolute(request.destination)?;
    let guest = CopyPeer::find(paths, request.name)?;
    let mut state = new_state(request.name, progress)?;
    let source = if request.source == Path::new("-") {
        None
    } else {
        let path = absolute(request.source)?;
        Some((open_source(&GuestRoot::of_caller()?, &path, request.links)?, path))
    };
    let named = source.as_ref().map(|(_, path)| path.as_path()).or(request.archived);
    let interrupted = interrupted::take(paths, request.name, TreeSide::Guest);
    let record_file = RecordFile::write(paths, request.name, TreeSide::Guest, request.destination)?;
    let (ours, theirs) = Transfer::pair()?;
    let child = match process::clone(0, None)? {
        Side::Parent(child) => GuestChild::of(child),
        Side::Child => {
            drop(ours);
            guest.work(&theirs, |root, state| {
                interrupted.iter().for_each(|record| record.remove(root));
                take(root, request, named, record_file.name(), guest.ids, &theirs, state)
            })
        }
    };
    drop(theirs);
    let sent = match &source {
        Some((from, _)) => Walk::run(from, TreeSide::Host, request.owners.ids(), &mut &ours, &mut state),
        None if request.archived.is_some() => {
            let input = state.stream(rustix::stdio::stdin());
            input.and_then(|input| archive::extract_one(input, &mut &ours, ALL_BITS, &mut state))
        }
        None => send_archive(&ours, &mut state),
    };
    let copied = match sent.and_then(|()| ours.finish(Ok(()), &mut state)) {
        Ok(()) => ours.finished(&mut state),
        // The child reports the cause.
        Err(error) if ours.is_broken() => Err(ours.finished(&mut state).err().unwrap_or(error)),
        Err(error) => Err(error),
    };
    // A child without a peer removes its files.
    drop(ours);
    child.wait(CLEANING);
    copied
}

/// Sends the entries of the archive on standard input, which may be compressed. The child is confined to its machine,
/// whose limits apply.
fn send_archive(mut transfer: &Transfer, state: &mut CopyState<'_>) -> Result<()> {
    let limits = Limits::of_bytes(u64::MAX);
    let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .context(|| "cannot duplicate standard input")?;
    let signals = state.signals()?;
    let wait = |stream: BorrowedFd<'_>| signals.wait(stream, PollFlags::IN);
    let mut stream = DecodedStream::of(input.into(), &wait)?;
    let sent = extract(std::io::BufReader::new(&mut stream), limits, &mut transfer, state);
    let left_out = stream.finish(sent)?;
    if let Some(summary) = left_out.summary() {
        log::warn!("{summary}");
    }
    Ok(())
}

/// Writes the received entries, as the child.
fn take(
    root: &GuestRoot,
    request: &CopyRequest<'_>,
    source: Option<&Path>,
    temporary: OsString,
    ids: IdMapping,
    transfer: &Transfer,
    state: &mut CopyState<'_>,
) -> Result<()> {
    let Some(source) = source else {
        let directory = root
            .open_directory(request.destination)
            .context(|| {
                format!("cannot open directory '{}' of '{}'", request.destination.display(), request.name)
            })
            .map_err(|error| {
                error.with_hint("create the directory first: the archive is extracted into it")
            })?;
        let mut tree = TreeWriter::new(directory, temporary, ids);
        transfer.receive_all(&mut tree, ALL_BITS, state)?;
        return tree.finish_into(request.replace);
    };
    let (directory, name) = destination(root, request.destination, source, request.replace)?;
    let mut tree = TreeWriter::new(directory, temporary, ids);
    transfer.receive_all(&mut tree, ALL_BITS, state)?;
    tree.finish(&name, request.replace)
}

/// Copies from a machine to the host.
///
/// # Errors
/// As of [`copy_to`].
pub(crate) fn copy_from(paths: &Paths, request: &CopyRequest<'_>, progress: Progress<'_>) -> Result<()> {
    require_absolute(request.source)?;
    let guest = CopyPeer::find(paths, request.name)?;
    let mut state = new_state(request.name, progress)?;
    let is_archive = request.destination == Path::new("-");
    if is_archive {
        refuse_terminal()?;
    }
    let (ours, theirs) = Transfer::pair()?;
    let _child = match process::clone(0, None)? {
        Side::Parent(child) => GuestChild::of(child),
        Side::Child => {
            drop(ours);
            guest.work(&theirs, |root, state| {
                let from = open_source(root, request.source, request.links)?;
                Walk::run(&from, TreeSide::Guest, guest.ids, &mut &theirs, state)
            })
        }
    };
    drop(theirs);
    if is_archive {
        let top = request.source.file_name().map_or(Path::new("."), Path::new);
        let out = std::io::BufWriter::new(state.stream(rustix::stdio::stdout())?);
        let mut writer = Writer::new(out, top, None);
        ours.receive_all(&mut writer, HARMLESS_BITS, &mut state)?;
        return writer.finish().map(drop);
    }
    let host = GuestRoot::of_caller()?;
    let path = absolute(request.destination)?;
    interrupted::take(paths, request.name, TreeSide::Host).iter().for_each(|record| record.remove(&host));
    let record_file = RecordFile::write(paths, request.name, TreeSide::Host, &path)?;
    let (directory, name) = destination(&host, &path, request.source, request.replace)?;
    let mut tree = TreeWriter::new(directory, record_file.name(), request.owners.ids());
    ours.receive_all(&mut tree, HARMLESS_BITS, &mut state)?;
    tree.finish(&name, request.replace)
}

/// Refuses an archive on a terminal.
///
/// # Errors
/// Standard output is one.
pub(crate) fn refuse_terminal() -> Result<()> {
    if rustix::termios::isatty(rustix::stdio::stdout()) {
        return Err(Error::usage("refusing to write a tar archive to a terminal")
            .with_hint("redirect standard output to a file or a pipe, or give a destination"));
    }
    Ok(())
}

fn new_state<'a>(name: &Name, progress: Progress<'a>) -> Result<CopyState<'a>> {
    Ok(CopyState::new(name.to_string(), progress, Some(Interrupts::block()?)))
}

/// Refuses a relative path of the machine: no working directory is known there.
fn require_absolute(path: &Path) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(Error::usage(format!("'{}' is not an absolute path of the machine", path.display()))
        .with_hint("write a path that begins with '/'"))
}

fn absolute(path: &Path) -> Result<std::path::PathBuf> {
    std::path::absolute(path).context(|| format!("cannot resolve '{}'", path.display()))
}

/// Opens the source for reference.
fn open_source(root: &GuestRoot, path: &Path, links: LinkMode) -> Result<OwnedFd> {
    let found = match links {
        LinkMode::Follow => root.find(path),
        LinkMode::Keep => root.find_link(path),
    };
    found.context(|| format!("cannot open '{}'", path.display()))
}

/// Returns the directory of a destination and the name in it. An existing directory takes the source under
/// the source's name, as with cp(1), unless both are to be merged.
fn destination(
    root: &GuestRoot,
    path: &Path,
    source: &Path,
    replace: Replace,
) -> Result<(OwnedFd, OsString)> {
    let nameless = |path: &Path| {
        Error::new(format!("'{}' has no file name", path.display()))
            .with_hint("give a destination that does not exist")
    };
    if path != source
        && replace != Replace::Merged
        && let Ok(directory) = root.open_directory(path)
    {
        let name = source.file_name().ok_or_else(|| nameless(source))?;
        return Ok((directory, name.to_owned()));
    }
    let name = path.file_name().ok_or_else(|| nameless(path))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let directory = root
        .open_directory(parent)
        .context(|| format!("cannot open directory '{}'", parent.display()))
        .map_err(|error| error.with_hint("create the directory first, or correct the destination"))?;
    Ok((directory, name.to_owned()))
}
