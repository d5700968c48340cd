//! Writes a tree or a disk image from a stream, as the extractor: root of throw-away ids in namespaces of its
//! own, whose file system is the draft, with a short list of system calls. It reports by one message, which its
//! parent does not trust. Called by `pipeline`.

use super::disk_file;
use crate::error::{Context, Error, Result};
use crate::sys::mount::{self, open_directory};
use crate::sys::{confine, process};
use crate::tree::entry::Monitor;
use crate::tree::tar::extract::extract;
use crate::tree::tar::policy::{LeftOut, Limits};
use crate::tree::tar::reader::is_archive;
use crate::tree::tree_writer::TreeWriter;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

/// The memory of the extractor, bytes: it remembers the names of all entries.
const MEMORY: u64 = 4 << 30;
/// The longest message, bytes.
pub(super) const LONGEST_MESSAGE: usize = 64 << 10;
/// The longest text of an error, characters: a path may be longer.
const LONGEST_TEXT: usize = 4096;

/// Root's capabilities over the files of its ids.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);

/// The content of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StreamContent {
    /// An archive: its entries are in the draft.
    Tree,
    /// Anything else: the draft has the file [`disk_file::NAME`].
    Disk,
}

/// The output of the extractor.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Extracted {
    /// The content of the stream.
    pub(crate) content: StreamContent,
    /// The number of entries.
    pub(crate) entries: u64,
    /// The bytes of all files.
    pub(crate) bytes: u64,
    /// The entries and attributes left out.
    pub(crate) left_out: LeftOut,
}

/// The message: what was written, or the error and its hint.
pub(super) type Message = std::result::Result<Extracted, (String, Option<String>)>;

/// The input of the extractor.
pub(super) struct ExtractorInput {
    /// The stream.
    pub(super) stream: OwnedFd,
    /// The draft, a detached mount.
    pub(super) draft: OwnedFd,
    /// The user namespace with its ids.
    pub(super) users: OwnedFd,
    /// The limits of the tree.
    pub(super) limits: Limits,
}

/// Writes the stream to the draft, as the extractor, reports to `messages`, and ends the process.
pub(super) fn run(input: ExtractorInput, messages: OwnedFd) -> ! {
    let written = write(input, messages.as_fd());
    let message: Message = written.map_err(|error| {
        let text = error.to_string().chars().take(LONGEST_TEXT).collect();
        (text, error.hint().map(str::to_owned))
    });
    let bytes = serde_json::to_vec(&message).unwrap_or_default();
    // Fails if the parent is gone.
    let _ = File::from(messages).write_all(&bytes);
    process::exit_now(0)
}

fn write(input: ExtractorInput, messages: BorrowedFd<'_>) -> Result<Extracted> {
    let ExtractorInput { stream, draft, users, limits } = input;
    enter(&draft, users).map_err(|error| error.context("cannot confine the extractor"))?;
    let directory = open(Path::new("/"))?;
    close_others(&[stream.as_fd(), messages, directory.as_fd()]);
    confine::allow(&confine::OF_TREES)?;
    // The descriptor of the mount is closed already.
    std::mem::forget(draft);
    let mut stream = BufReader::with_capacity(256 << 10, File::from(stream));
    let mut head = vec![0; 512];
    let length = read_head(&mut stream, &mut head)?;
    head.truncate(length);
    let is_archive = is_archive(&head);
    let stream = std::io::Cursor::new(head).chain(stream);
    let mut count = Count { entries: 0, bytes: 0 };
    if !is_archive {
        let bytes = disk_file::write(stream, directory.as_fd(), limits.bytes)?;
        return Ok(Extracted {
            content: StreamContent::Disk,
            entries: 1,
            bytes,
            left_out: LeftOut::default(),
        });
    }
    let mut writer = TreeWriter::into_existing(directory);
    let left_out = extract(stream, limits, &mut writer, &mut count)?;
    writer.finish_in_place()?;
    Ok(Extracted { content: StreamContent::Tree, entries: count.entries, bytes: count.bytes, left_out })
}

/// Enters the user namespace, and a mount namespace with the draft as its only mount.
fn enter(draft: &OwnedFd, users: OwnedFd) -> Result<()> {
    process::set_dumpable(false);
    setns(&users, CloneFlags::CLONE_NEWUSER).context(|| "cannot enter a user namespace")?;
    process::become_user(0, 0, &[])?;
    // The change of the user has cancelled it.
    process::die_with_parent();
    unshare(CloneFlags::CLONE_NEWNS).context(|| "cannot create a mount namespace")?;
    let root = open_directory(Path::new("/"))?;
    mount::attach(draft.as_fd(), root.as_fd()).context(|| "cannot attach the draft")?;
    mount::pivot(draft.as_fd()).context(|| "cannot change the root")?;
    rustix::process::umask(Mode::empty());
    confine::keep_capabilities(KEPT)?;
    confine::limit(MEMORY)
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context(|| "cannot open the draft")
}

/// Closes all descriptors but these and standard error.
fn close_others(kept: &[BorrowedFd<'_>]) {
    use rustix::fd::AsRawFd;
    let mut numbers: Vec<i32> = kept.iter().map(AsRawFd::as_raw_fd).chain([2]).collect();
    numbers.sort_unstable();
    crate::sys::descriptor::close_all_but(&numbers);
}

fn read_head(stream: &mut impl Read, head: &mut [u8]) -> Result<usize> {
    let mut at = 0;
    while let Some(place) = head.get_mut(at..).filter(|place| !place.is_empty()) {
        match stream.read(place) {
            Ok(0) => break,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => at += read.context(|| "cannot read the source")?,
        }
    }
    if at == 0 {
        return Err(Error::new("the source is empty"));
    }
    Ok(at)
}

/// Counts entries and bytes.
struct Count {
    entries: u64,
    bytes: u64,
}

impl Monitor for Count {
    fn count_entry(&mut self) -> Result<()> {
        self.entries += 1;
        Ok(())
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        Ok(())
    }

    fn skip(&mut self, _: &Path, _: &str) {}

    fn interrupts(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
