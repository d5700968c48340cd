//! Entries between the two processes of a copy, over a socket: a sink that sends them, and a receiver that gives
//! them to a sink. One process has the rights of the host, the other those of the guest's root; what comes from a
//! guest is bounded and has its names and modes checked again.

use super::archive::plain;
use super::entry::{Content, Kind, Meta, Notes, Sink};
use crate::control::inside::Failure;
use crate::error::{Context, Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The longest header: a path, a target and the extended attributes of a file.
const LONGEST: usize = 8 << 20;
/// How much of a file is sent at once.
const PART: usize = 256 << 10;

/// What is sent before the content of a file.
#[derive(Debug, Serialize, Deserialize)]
enum Frame {
    /// An entry; a file's parts follow.
    Entry { path: Vec<u8>, meta: Meta, kind: Sort, told: Option<u64> },
    /// All is sent.
    End,
    /// The other side failed.
    Failed(Failure),
}

/// The kind of an entry.
#[derive(Debug, Serialize, Deserialize)]
enum Sort {
    Directory,
    File,
    Link(Vec<u8>),
    Hard(Vec<u8>),
    Fifo,
}

/// One end of the socket. Signals that end the copy interrupt every wait.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    /// Whether the other side reads no more.
    broken: Cell<bool>,
}

impl Wire {
    /// Two connected ends.
    ///
    /// # Errors
    /// What socketpair(2) returns.
    pub fn pair() -> Result<(Self, Self)> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let end = |socket| Self { socket, broken: Cell::new(false) };
        pair.map(|(one, other)| (end(one), end(other))).context(|| "cannot create a socket")
    }

    /// Whether the other side was not there any more to receive something.
    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    fn wait(&self, flags: PollFlags, notes: &mut Notes<'_>) -> Result<()> {
        let mut watched = vec![PollFd::new(&self.socket, flags)];
        watched.extend(
            notes.signals.as_ref().map(|signals| PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)),
        );
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => {}
            ready => drop(ready.context(|| "cannot wait for the other side of the copy")?),
        }
        notes.more(0)
    }

    fn write(&self, mut bytes: &[u8], notes: &mut Notes<'_>) -> Result<()> {
        while !bytes.is_empty() {
            match rustix::net::send(&self.socket, bytes, rustix::net::SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                    self.wait(PollFlags::OUT, notes)?
                }
                Err(errno) => {
                    self.broken.set(true);
                    return Err(errno).context(|| "cannot send to the other side of the copy");
                }
            }
        }
        Ok(())
    }

    fn read(&self, bytes: &mut [u8], notes: &mut Notes<'_>) -> Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            match rustix::io::read(&self.socket, bytes.get_mut(at..).unwrap_or_default()) {
                Ok(0) => return Err(Error::new("the other side of the copy ended")),
                Ok(length) => at += length,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => self.wait(PollFlags::IN, notes)?,
                Err(errno) => return Err(errno).context(|| "cannot receive from the other side of the copy"),
            }
        }
        Ok(())
    }

    fn send(&self, frame: &Frame, notes: &mut Notes<'_>) -> Result<()> {
        let text = serde_json::to_vec(frame).map_err(|error| Error::new(error.to_string()))?;
        self.write(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_ne_bytes(), notes)?;
        self.write(&text, notes)
    }

    fn receive(&self, notes: &mut Notes<'_>) -> Result<Frame> {
        let mut length = [0u8; 4];
        self.read(&mut length, notes)?;
        let length = u32::from_ne_bytes(length) as usize;
        if length > LONGEST {
            return Err(Error::new("received an invalid entry of the copy"));
        }
        let mut text = vec![0u8; length];
        self.read(&mut text, notes)?;
        serde_json::from_slice(&text).map_err(|_| Error::new("received an invalid entry of the copy"))
    }

    /// Tells the other side how this one ended.
    ///
    /// # Errors
    /// The other side is gone.
    pub fn finish(&self, result: Result<()>, notes: &mut Notes<'_>) -> Result<()> {
        let frame = result.map_or_else(|error| Frame::Failed(error.into()), |()| Frame::End);
        self.send(&frame, notes)
    }

    /// Waits for the end of the other side.
    ///
    /// # Errors
    /// Its failure.
    pub fn finished(&self, notes: &mut Notes<'_>) -> Result<()> {
        match self.receive(notes)? {
            Frame::End => Ok(()),
            Frame::Failed(failure) => Err(failure.into()),
            Frame::Entry { .. } => Err(Error::new("received an invalid entry of the copy")),
        }
    }

    /// Gives what the other side sends to a sink, up to its end. `kept` are the mode bits that come along.
    ///
    /// # Errors
    /// A failure of the other side or of the sink.
    pub fn receive_all(&self, sink: &mut impl Sink, kept: u32, notes: &mut Notes<'_>) -> Result<()> {
        loop {
            let (path, mut meta, kind, told) = match self.receive(notes)? {
                Frame::End => return Ok(()),
                Frame::Failed(failure) => return Err(failure.into()),
                Frame::Entry { path, meta, kind, told } => (plain(&to_path(path))?, meta, kind, told),
            };
            notes.entries += 1;
            notes.more(0)?;
            meta.mode &= kept;
            meta.attributes
                .retain(|(name, _)| name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_"));
            let mut parts = Parts { wire: self, told, length: 0, ended: false };
            let kind = match kind {
                Sort::Directory => Kind::Directory,
                Sort::Fifo => Kind::Fifo,
                Sort::Link(target) => Kind::Link(to_path(target)),
                Sort::Hard(first) => Kind::Hard(plain(&to_path(first))?),
                Sort::File => {
                    sink.take(&path, &meta, Kind::File(&mut parts), notes)?;
                    if !parts.ended {
                        return Err(Error::new("a file was not taken whole"));
                    }
                    continue;
                }
            };
            sink.take(&path, &meta, kind, notes)?;
        }
    }
}

impl Sink for &Wire {
    fn take(&mut self, path: &Path, meta: &Meta, kind: Kind<'_>, notes: &mut Notes<'_>) -> Result<()> {
        let mut content = None;
        let sort = match kind {
            Kind::Directory => Sort::Directory,
            Kind::Fifo => Sort::Fifo,
            Kind::Link(target) => Sort::Link(from_path(&target)),
            Kind::Hard(first) => Sort::Hard(from_path(&first)),
            Kind::File(file) => {
                content = Some(file);
                Sort::File
            }
        };
        let told = content.as_ref().and_then(|content| content.told());
        self.send(&Frame::Entry { path: from_path(path), meta: meta.clone(), kind: sort, told }, notes)?;
        let Some(content) = content else { return Ok(()) };
        let reading = || format!("cannot copy '{}'", path.display());
        let mut buffer = Vec::with_capacity(PART);
        while let Some(at) =
            content.next(&mut buffer, PART, notes).map_err(|error| error.context(reading()))?
        {
            self.write(&u32::try_from(buffer.len()).unwrap_or_default().to_ne_bytes(), notes)?;
            self.write(&at.to_ne_bytes(), notes)?;
            self.write(&buffer, notes)?;
            notes.more(buffer.len() as u64)?;
        }
        self.write(&0u32.to_ne_bytes(), notes)?;
        self.write(&content.length().to_ne_bytes(), notes)
    }
}

/// The content of a file, as the other side sends it.
struct Parts<'a> {
    wire: &'a Wire,
    told: Option<u64>,
    length: u64,
    ended: bool,
}

impl Content for Parts<'_> {
    fn next(&mut self, buffer: &mut Vec<u8>, _: usize, notes: &mut Notes<'_>) -> Result<Option<u64>> {
        if self.ended {
            return Ok(None);
        }
        let (mut length, mut at) = ([0u8; 4], [0u8; 8]);
        self.wire.read(&mut length, notes)?;
        self.wire.read(&mut at, notes)?;
        let (length, at) = (u32::from_ne_bytes(length) as usize, u64::from_ne_bytes(at));
        if length == 0 {
            (self.ended, self.length) = (true, at);
            return Ok(None);
        }
        if length > PART {
            return Err(Error::new("received an invalid part of a file"));
        }
        buffer.resize(length, 0);
        self.wire.read(buffer, notes)?;
        Ok(Some(at))
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn told(&self) -> Option<u64> {
        self.told
    }
}

fn from_path(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn to_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}
