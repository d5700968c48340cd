//! copy-to and copy-from: files and trees between the host and a running machine, by two processes: this one on
//! the host, and a child inside the machine with the rights of the guest's root. Nothing of the guest is executed,
//! and no link in either tree leads out of it. What comes from a guest has no set-user-ID bits here.

mod archive;
mod entry;
mod ids;
mod lost;
mod place;
mod walk;
mod wire;

pub use place::Replace;

use super::inside::{self, Inside};
use super::progress::Progress;
use super::{running, signal};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use crate::sys::guest_files::Root;
use crate::sys::process::{self, Side};
use entry::Notes;
use ids::Ids;
use lost::{Note, To};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use place::Place;
use rustix::fd::{AsFd, OwnedFd};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;
use walk::Walk;
use wire::Wire;

/// The mode bits that come along to a guest.
const ALL_BITS: u32 = 0o7777;
/// The mode bits that come along from a guest: those of set-user-ID and set-group-ID would give rights here.
const HARMLESS_BITS: u32 = 0o1777;
/// How long the child of a failed copy may take to remove what it made.
const CLEANING: Duration = Duration::from_secs(30);

/// What is to be copied.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
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
pub fn copy_to(paths: &Paths, ask: &Ask<'_>, progress: Progress<'_>) -> Result<()> {
    let guest = Guest::find(paths, ask.name)?;
    let mut notes = notes(ask.name, progress)?;
    let source = if ask.source == Path::new("-") {
        None
    } else {
        let path = absolute(ask.source)?;
        Some((open_source(&Root::of_caller()?, &path)?, path))
    };
    let lost = lost::take(paths, ask.name, To::Guest);
    let note = Note::write(paths, ask.name, To::Guest, ask.destination)?;
    let (ours, theirs) = Wire::pair()?;
    let child = match process::clone(0, None)? {
        Side::Parent(child) => Inside::of(child),
        Side::Child => {
            drop(ours);
            guest.work(&theirs, |root, notes| {
                lost.iter().for_each(|trace| trace.remove(root));
                let path = source.as_ref().map(|(_, path)| path.as_path());
                take(root, ask, path, note.name(), guest.ids, &theirs, notes)
            })
        }
    };
    drop(theirs);
    let sent = match &source {
        Some((from, _)) => Walk::run(from, walk::Side::Host, Ids::HOST, &mut &ours, &mut notes),
        None => archive::read(std::io::stdin().lock(), &mut &ours, &mut notes),
    };
    let copied = match sent.and_then(|()| ours.finish(Ok(()), &mut notes)) {
        Ok(()) => ours.finished(&mut notes),
        // The other side says why.
        Err(error) if ours.is_broken() => Err(ours.finished(&mut notes).err().unwrap_or(error)),
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
    ask: &Ask<'_>,
    source: Option<&Path>,
    temporary: OsString,
    ids: Ids,
    wire: &Wire,
    notes: &mut Notes<'_>,
) -> Result<()> {
    let Some(source) = source else {
        let directory = root
            .open_directory(ask.destination)
            .context(|| format!("cannot open directory '{}' of '{}'", ask.destination.display(), ask.name))
            .map_err(|error| error.with_hint("make it first: the archive's entries are put into it"))?;
        let mut place = Place::new(directory, temporary, ids);
        wire.receive_all(&mut place, ALL_BITS, notes)?;
        return place.finish_into(ask.replace);
    };
    let (directory, name) = destination(root, ask.destination, source)?;
    let mut place = Place::new(directory, temporary, ids);
    wire.receive_all(&mut place, ALL_BITS, notes)?;
    place.finish(&name, ask.replace)
}

/// Copies from a machine to the host.
///
/// # Errors
/// As [`copy_to`].
pub fn copy_from(paths: &Paths, ask: &Ask<'_>, progress: Progress<'_>) -> Result<()> {
    let guest = Guest::find(paths, ask.name)?;
    let mut notes = notes(ask.name, progress)?;
    let is_archive = ask.destination == Path::new("-");
    if is_archive && rustix::termios::isatty(rustix::stdio::stdout()) {
        return Err(Error::usage("refusing to write a tar archive to a terminal")
            .with_hint("send it to a file or a pipe, or name a destination"));
    }
    let (ours, theirs) = Wire::pair()?;
    let _child = match process::clone(0, None)? {
        Side::Parent(child) => Inside::of(child),
        Side::Child => {
            drop(ours);
            guest.work(&theirs, |root, notes| {
                let from = open_source(root, ask.source)?;
                Walk::run(&from, walk::Side::Guest, guest.ids, &mut &theirs, notes)
            })
        }
    };
    drop(theirs);
    if is_archive {
        let top = ask.source.file_name().map_or(Path::new("."), Path::new);
        let out = std::io::BufWriter::new(std::fs::File::from(
            rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
                .context(|| "cannot use standard output")?,
        ));
        let mut writer = archive::Writer::new(out, top);
        ours.receive_all(&mut writer, HARMLESS_BITS, &mut notes)?;
        return writer.finish();
    }
    let host = Root::of_caller()?;
    let path = absolute(ask.destination)?;
    lost::take(paths, ask.name, To::Host).iter().for_each(|trace| trace.remove(&host));
    let note = Note::write(paths, ask.name, To::Host, &path)?;
    let (directory, name) = destination(&host, &path, ask.source)?;
    let mut place = Place::new(directory, note.name(), Ids::HOST);
    ours.receive_all(&mut place, HARMLESS_BITS, &mut notes)?;
    place.finish(&name, ask.replace)
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
    fn work(&self, wire: &Wire, work: impl FnOnce(&Root, &mut Notes<'_>) -> Result<()>) -> ! {
        let (machine, progress) = (self.record.name.clone(), Progress::silent());
        let mut notes = Notes { machine, progress, signals: None, entries: 0, bytes: 0, shown: None };
        let done =
            inside::enter(&self.record, &self.leader).and_then(|()| work(&Root::of_caller()?, &mut notes));
        // A parent that is gone asked for no answer.
        let _ = wire.finish(done, &mut notes);
        process::exit_now(0)
    }
}

fn notes<'a>(name: &Name, progress: Progress<'a>) -> Result<Notes<'a>> {
    let mut mask = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| mask.add(signal));
    mask.thread_block().map_err(std::io::Error::from).context(|| "cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&mask, flags)
        .map_err(std::io::Error::from)
        .context(|| "cannot receive signals")?;
    let machine = name.to_string();
    Ok(Notes { machine, progress, signals: Some(signals), entries: 0, bytes: 0, shown: None })
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
fn destination(root: &Root, path: &Path, source: &Path) -> Result<(OwnedFd, OsString)> {
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
