//! copy-to and copy-from: files and trees between the host and a machine that runs. Nothing of the
//! guest is executed, no link in either tree leads out of it, and ids are mapped as the machine's
//! are. What comes from a guest has no set-user-ID bits here.

mod archive;
mod entry;
mod ids;
mod lost;
mod place;
mod walk;

pub use place::Replace;

use super::progress::Progress;
use super::{running, signal};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::sys::guest_files::Root;
use crate::sys::process;
use entry::Notes;
use ids::Ids;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use place::Place;
use rustix::fd::{AsFd, OwnedFd};
use std::ffi::OsString;
use std::path::Path;
use walk::{Side, Walk};

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
    let (guest, ids) = guest(paths, ask.name)?;
    let mut notes = notes(ask.name, progress)?;
    let host = Root::of_caller()?;
    // First the source, as we are: from there on files are made as the guest's root.
    if ask.source == Path::new("-") {
        let directory = guest
            .open_directory(ask.destination)
            .context(|| format!("cannot open directory '{}' of '{}'", ask.destination.display(), ask.name))
            .map_err(|error| error.hint("make it first: the archive's entries are put into it"))?;
        process::make_files_as(ids.root())?;
        let mut place = Place::new(directory, ids);
        archive::read(std::io::stdin().lock(), &mut place, &mut notes)?;
        return place.finish_into(ask.replace);
    }
    let source = absolute(ask.source)?;
    let from = open_source(&host, &source)?;
    let (directory, name) = destination(&guest, ask.destination, &source)?;
    process::make_files_as(ids.root())?;
    let mut place = Place::new(directory, ids);
    Walk::run(&from, Side::Host, Ids::HOST, &mut place, &mut notes)?;
    place.finish(&name, ask.replace)
}

/// Copies from a machine to the host.
///
/// # Errors
/// As [`copy_to`].
pub fn copy_from(paths: &Paths, ask: &Ask<'_>, progress: Progress<'_>) -> Result<()> {
    let (guest, ids) = guest(paths, ask.name)?;
    let mut notes = notes(ask.name, progress)?;
    let from = open_source(&guest, ask.source)?;
    if ask.destination == Path::new("-") {
        if rustix::termios::isatty(rustix::stdio::stdout()) {
            return Err(Error::usage("an archive is nothing for a terminal")
                .hint("send it to a file or a pipe, or name a destination"));
        }
        let top = ask.source.file_name().map_or(Path::new("."), Path::new);
        let out = std::io::BufWriter::new(std::fs::File::from(
            rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
                .context(|| "cannot use standard output")?,
        ));
        let mut writer = archive::Writer::new(out, top);
        Walk::run(&from, Side::Guest, ids, &mut writer, &mut notes)?;
        return writer.finish();
    }
    let host = Root::of_caller()?;
    let (directory, name) = destination(&host, &absolute(ask.destination)?, ask.source)?;
    let mut place = Place::new(directory, Ids::HOST);
    Walk::run(&from, Side::Guest, ids, &mut place, &mut notes)?;
    place.finish(&name, ask.replace)
}

/// The root of a machine that runs, and its id map.
fn guest(paths: &Paths, name: &Name) -> Result<(Root, Ids)> {
    let record = running(paths, name)?;
    // Held while we look at what procfs shows of it: it is no other process then.
    let leader = signal::leader(&record)?;
    let pid = record.leader.unwrap_or_default();
    let root = Root::of_process(pid)?;
    let ids = if record.id_base.is_some() { Ids::of_machine(pid)? } else { Ids::HOST };
    process::send_signal(leader.as_fd(), 0).context(|| format!("machine '{name}' ended"))?;
    Ok((root, ids))
}

fn notes<'a>(name: &Name, progress: Progress<'a>) -> Result<Notes<'a>> {
    let mut mask = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| mask.add(signal));
    mask.thread_block().map_err(std::io::Error::from).context(|| "cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&mask, flags)
        .map_err(std::io::Error::from)
        .context(|| "cannot receive signals")?;
    Ok(Notes { machine: name.to_string(), progress, signals, entries: 0, bytes: 0, shown: None })
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
            .hint("name a destination that does not exist yet")
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
        .map_err(|error| error.hint("make it first, or correct the destination"))?;
    Ok((directory, name.to_owned()))
}
