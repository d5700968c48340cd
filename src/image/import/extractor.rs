//! Writes a tree or a disk image from a stream, as the extractor: root of throw-away ids in namespaces of its
//! own, whose file system is the draft, with a short list of system calls. It reports by one message, which its
//! parent does not trust. Called by `pipeline`.

use super::disk_file;
use crate::error::{Context, Error, Result};
use crate::sys::mount::{self, open_directory};
use crate::sys::{confine, process};
use crate::tree::entry::Monitor;
use crate::tree::tar::extract::extract;
use crate::tree::tar::layer::extract_layer;
use crate::tree::tar::policy::{LeftOut, Limits, Marks};
use crate::tree::tar::reader::is_archive;
use crate::tree::tree_writer::TreeWriter;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The memory of the extractor, bytes: it remembers the names of all entries.
const MEMORY: u64 = 4 << 30;
/// The longest message, bytes: that of a layer has paths.
pub(super) const LONGEST_MESSAGE: usize = 16 << 20;
/// The bytes of all paths in the message of a layer.
const MOST_PATHS: usize = 2 << 20;
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

/// The use of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamUse {
    /// An archive, else a disk image.
    Image,
    /// A layer of an OCI image.
    Layer,
}

/// The references of a layer to those below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerMarks {
    /// The paths of its whiteouts.
    whiteouts: Vec<Vec<u8>>,
    /// The paths of directories that it does not describe.
    implied: Vec<Vec<u8>>,
    /// Whether it hides all layers below.
    pub(crate) is_opaque: bool,
    /// Whether it describes the root.
    pub(crate) has_root: bool,
}

/// The output of the extractor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Extracted {
    /// The content of the stream.
    pub(crate) content: StreamContent,
    /// The number of entries.
    pub(crate) entries: u64,
    /// The bytes of all files.
    pub(crate) bytes: u64,
    /// The entries and attributes left out.
    pub(crate) left_out: LeftOut,
    /// The references to layers below.
    pub(crate) marks: LayerMarks,
}

impl LayerMarks {
    fn of(marks: &Marks) -> Result<Self> {
        let is_root = |path: &&PathBuf| path.as_os_str().is_empty();
        let bytes = |paths: &mut dyn Iterator<Item = &PathBuf>| -> Vec<Vec<u8>> {
            paths.map(|path| path.as_os_str().as_bytes().to_vec()).collect()
        };
        let (whiteouts, implied) = (bytes(&mut marks.whiteouts.iter()), bytes(&mut marks.implied.iter()));
        if whiteouts.iter().chain(&implied).map(Vec::len).sum::<usize>() > MOST_PATHS {
            return Err(Error::new(
                "the layer has too many whiteouts, and directories that it does not describe",
            ));
        }
        let is_opaque = marks.opaque.iter().any(|path| is_root(&path));
        Ok(Self { whiteouts, implied, is_opaque, has_root: marks.has_root })
    }

    /// Returns whether the layer depends on those below it.
    pub(super) fn has_references(&self) -> bool {
        !self.whiteouts.is_empty() || !self.implied.is_empty()
    }

    /// Returns the paths of its whiteouts.
    pub(super) fn whiteouts(&self) -> impl Iterator<Item = PathBuf> {
        self.whiteouts.iter().map(|path| PathBuf::from(OsString::from_vec(path.clone())))
    }

    /// Returns the paths of directories that it does not describe, those above first.
    pub(super) fn implied(&self) -> impl Iterator<Item = PathBuf> {
        self.implied.iter().map(|path| PathBuf::from(OsString::from_vec(path.clone())))
    }
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
    /// The use of the stream.
    pub(super) stream_use: StreamUse,
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
    let ExtractorInput { stream, draft, users, limits, stream_use } = input;
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
    let is_disk = stream_use == StreamUse::Image && !is_archive(&head);
    let stream = std::io::Cursor::new(head).chain(stream);
    if is_disk {
        let bytes = disk_file::write(stream, directory.as_fd(), limits.bytes)?;
        let (left_out, marks) = Default::default();
        return Ok(Extracted { content: StreamContent::Disk, entries: 1, bytes, left_out, marks });
    }
    let mut count = Count { entries: 0, bytes: 0 };
    let mut writer = TreeWriter::into_existing(directory);
    let (left_out, marks) = match stream_use {
        StreamUse::Image => (extract(stream, limits, &mut writer, &mut count)?, LayerMarks::default()),
        StreamUse::Layer => {
            let (left_out, marks) = extract_layer(stream, limits, &mut writer, &mut count)?;
            (left_out, LayerMarks::of(&marks)?)
        }
    };
    writer.finish_in_place()?;
    let Count { entries, bytes } = count;
    Ok(Extracted { content: StreamContent::Tree, entries, bytes, left_out, marks })
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
