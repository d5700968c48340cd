//! copy-to and copy-from: files and trees between the host and a running machine, by two processes: this one on
//! the host, and a child inside the machine with the rights of the guest's root. Nothing of the guest is executed,
//! and no link in either tree leads out of it. What comes from a guest has no set-user-ID bits here.

mod archive;
mod entry;
mod ids;
mod interrupted;
mod transfer;
mod tree_writer;
mod walk;

pub use tree_writer::Replace;

use super::guest_child::{self, GuestChild};
use super::progress::Progress;
use super::{running, signal};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use crate::sys::guest_files::Root;
use crate::sys::process::{self, Side};
use entry::CopyState;
use ids::Ids;
use interrupted::{RecordFile, To};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fd::{AsFd, OwnedFd};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;
use transfer::Transfer;
use tree_writer::TreeWriter;
use walk::Walk;

/// The mode bits that come along to a guest.
const ALL_BITS: u32 = 0o7777;
/// The mode bits that come along from a guest: those of set-user-ID and set-group-ID would give rights here.
const HARMLESS_BITS: u32 = 0o1777;
/// How long the child of a failed copy may take to remove what it made.
const CLEANING: Duration = Duration::from_secs(30);

/// What is to be copied.
#[derive(Debug, Clone, Copy)]
pub struct CopyRequest<'a> {
    /// The machine.
    pub name: &'a Name,
    /// What, `-` for an archive from standard input.
    pub source: &'a Path,
    /// Where to, `-` for an archive to standard output.
    pub destination: &'a Path,
    /// What to do with something that is there already.
    pub replace: Replace,
}

/// Copies from the host into a machine.
///
/// # Errors
/// What cannot be copied; nothing of it is left at the destination then.
pub fn copy_to(paths: &Paths, request: &CopyRequest<'_>, progress: Progress<'_>) -> Result<()> {
    let guest = Guest::find(paths, request.name)?;
    let mut state = new_state(request.name, progress)?;
    let source = if request.source == Path::new("-") {
        None
    } else {
        let path = absolute(request.source)?;
        Some((open_source(&Root::of_caller()?, &path)?, path))
    };
    let interrupted = interrupted::take(paths, request.name, To::Guest);
    let record_file = RecordFile::write(paths, request.name, To::Guest, request.destination)?;
    let (ours, theirs) = Transfer::pair()?;
    let child = match process::clone(0, None)? {
        Side::Parent(child) => GuestChild::of(child),
        Side::Child => {
            drop(ours);
            guest.work(&theirs, |root, state| {
                interrupted.iter().for_each(|record| record.remove(root));
                let path = source.as_ref().map(|(_, path)| path.as_path());
                take(root, request, path, record_file.name(), guest.ids, &theirs, state)
            })
        }
    };
    drop(theirs);
    let sent = match &source {
        Some((from, _)) => Walk::run(from, walk::Side::Host, Ids::HOST, &mut &ours, &mut state),
        None => archive::read(std::io::stdin().lock(), &mut &ours, &mut state),
    };
    let copied = match sent.and_then(|()| ours.finish(Ok(()), &mut state)) {
        Ok(()) => ours.finished(&mut state),
        // The other side says why.
        Err(error) if ours.is_broken() => Err(ours.finished(&mut state).err().unwrap_or(error)),
        Err(error) => Err(error),
    };
    // A child that lost its parent's end removes what it made.
    drop(ours);
    child.wait(CLEANING);
    copied
}

/// The child's part of a copy into a machine.
fn take(
    root: &Root,
    request: &CopyRequest<'_>,
    source: Option<&Path>,
    temporary: OsString,
    ids: Ids,
    transfer: &Transfer,
    state: &mut CopyState<'_>,
) -> Result<()> {
    let Some(source) = source else {
        let directory = root
            .open_directory(request.destination)
            .context(|| {
                format!("cannot open directory '{}' of '{}'", request.destination.display(), request.name)
            })
            .map_err(|error| error.with_hint("make it first: the archive's entries are put into it"))?;
        let mut tree = TreeWriter::new(directory, temporary, ids);
        transfer.receive_all(&mut tree, ALL_BITS, state)?;
        return tree.finish_into(request.replace);
    };
    let (directory, name) = split_destination(root, request.destination, source)?;
    let mut tree = TreeWriter::new(directory, temporary, ids);
    transfer.receive_all(&mut tree, ALL_BITS, state)?;
    tree.finish(&name, request.replace)
}

/// Copies from a machine to the host.
///
/// # Errors
/// As [`copy_to`].
pub fn copy_from(paths: &Paths, request: &CopyRequest<'_>, progress: Progress<'_>) -> Result<()> {
    let guest = Guest::find(paths, request.name)?;
    let mut state = new_state(request.name, progress)?;
    let is_archive = request.destination == Path::new("-");
    if is_archive && rustix::termios::isatty(rustix::stdio::stdout()) {
        return Err(Error::usage("refusing to write a tar archive to a terminal")
            .with_hint("send it to a file or a pipe, or name a destination"));
    }
    let (ours, theirs) = Transfer::pair()?;
    let _child = match process::clone(0, None)? {
        Side::Parent(child) => GuestChild::of(child),
        Side::Child => {
            drop(ours);
            guest.work(&theirs, |root, state| {
                let from = open_source(root, request.source)?;
                Walk::run(&from, walk::Side::Guest, guest.ids, &mut &theirs, state)
            })
        }
    };
    drop(theirs);
    if is_archive {
        let top = request.source.file_name().map_or(Path::new("."), Path::new);
        let out = std::io::BufWriter::new(std::fs::File::from(
            rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
                .context(|| "cannot use standard output")?,
        ));
        let mut writer = archive::Writer::new(out, top);
        ours.receive_all(&mut writer, HARMLESS_BITS, &mut state)?;
        return writer.finish();
    }
    let host = Root::of_caller()?;
    let path = absolute(request.destination)?;
    interrupted::take(paths, request.name, To::Host).iter().for_each(|record| record.remove(&host));
    let record_file = RecordFile::write(paths, request.name, To::Host, &path)?;
    let (directory, name) = split_destination(&host, &path, request.source)?;
    let mut tree = TreeWriter::new(directory, record_file.name(), Ids::HOST);
    ours.receive_all(&mut tree, HARMLESS_BITS, &mut state)?;
    tree.finish(&name, request.replace)
}

/// A running machine, to be entered.
struct Guest {
    record: Record,
    leader: OwnedFd,
    ids: Ids,
}

impl Guest {
    fn find(paths: &Paths, name: &Name) -> Result<Self> {
        let record = running(paths, name)?;
        // Held while procfs is read: its process id is no other process then.
        let leader = signal::leader(&record)?;
        let pid = record.leader.unwrap_or_default();
        let ids = if record.id_base.is_some() { Ids::of_machine(pid)? } else { Ids::HOST };
        process::send_signal(leader.as_fd(), 0).context(|| format!("machine '{name}' ended"))?;
        Ok(Self { record, leader, ids })
    }

    /// Works as the child: enters the machine, and reports how the work ended.
    fn work(&self, transfer: &Transfer, work: impl FnOnce(&Root, &mut CopyState<'_>) -> Result<()>) -> ! {
        let (machine, progress) = (self.record.name.clone(), Progress::silent());
        let mut state = CopyState { machine, progress, signals: None, entries: 0, bytes: 0, shown: None };
        let done = guest_child::enter(&self.record, &self.leader)
            .and_then(|()| work(&Root::of_caller()?, &mut state));
        // A parent that is gone asked for no answer.
        let _ = transfer.finish(done, &mut state);
        process::exit_now(0)
    }
}

fn new_state<'a>(name: &Name, progress: Progress<'a>) -> Result<CopyState<'a>> {
    let mut mask = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| mask.add(signal));
    mask.thread_block().map_err(std::io::Error::from).context(|| "cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&mask, flags)
        .map_err(std::io::Error::from)
        .context(|| "cannot receive signals")?;
    let machine = name.to_string();
    Ok(CopyState { machine, progress, signals: Some(signals), entries: 0, bytes: 0, shown: None })
}

fn absolute(path: &Path) -> Result<std::path::PathBuf> {
    std::path::absolute(path).context(|| format!("cannot find '{}'", path.display()))
}

/// What is to be copied: a link itself, not where it leads.
fn open_source(root: &Root, path: &Path) -> Result<OwnedFd> {
    root.find_link(path).context(|| format!("cannot open '{}'", path.display()))
}

/// The directory something is to be put into, and its name there: a directory that is there takes it
/// under its own name, as cp(1) does.
fn split_destination(root: &Root, path: &Path, source: &Path) -> Result<(OwnedFd, OsString)> {
    let nameless = |path: &Path| {
        Error::new(format!("'{}' has no name to be copied under", path.display()))
            .with_hint("name a destination that does not exist yet")
    };
    if path != source
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
        .map_err(|error| error.with_hint("make it first, or correct the destination"))?;
    Ok((directory, name.to_owned()))
}
