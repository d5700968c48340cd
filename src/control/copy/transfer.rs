//! Transfers entries between the two processes of a copy over a socket: a sink that sends them, and a
//! receiver that passes them to a sink. One process has the capabilities of the host's root, the other those
//! of the guest's. Data of a guest is bounded, and its paths and modes are checked again.

use crate::control::guest_child::ChildError;
use crate::error::{Context, Error, Result};
use crate::tree::entry::plain;
use crate::tree::entry::{Content, EntryKind, Meta, Monitor, Sink, shown};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The maximum size of a header, bytes: path, link target and extended attributes.
const LONGEST: usize = 8 << 20;
/// The maximum size of a part of a file, bytes.
const PART: usize = 256 << 10;

/// A header; the content of a file follows it.
#[derive(Debug, Serialize, Deserialize)]
enum Frame {
    /// An entry; the parts of a file follow.
    Entry { path: Vec<u8>, meta: Meta, kind: FrameKind, expected_length: Option<u64> },
    /// The end of all entries.
    End,
    /// The failure of the sender.
    Failed(ChildError),
}

/// The kind of an entry.
#[derive(Debug, Serialize, Deserialize)]
enum FrameKind {
    Directory,
    File,
    Link(Vec<u8>),
    Hard(Vec<u8>),
    Fifo,
}

/// One end of the socket. Signals that interrupt the copy interrupt every wait.
#[derive(Debug)]
pub(crate) struct Transfer {
    socket: OwnedFd,
    /// Whether the peer has closed its end.
    broken: Cell<bool>,
}

impl Transfer {
    /// Creates two connected ends.
    ///
    /// # Errors
    /// Any error of socketpair(2).
    pub(crate) fn pair() -> Result<(Self, Self)> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let end = |socket| Self { socket, broken: Cell::new(false) };
        pair.map(|(one, other)| (end(one), end(other))).context(|| "cannot create a socket")
    }

    /// Returns whether a send failed because the peer has closed its end.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    fn wait(&self, flags: PollFlags, monitor: &mut dyn Monitor) -> Result<()> {
        let mut watched = vec![PollFd::new(&self.socket, flags)];
        watched.extend(monitor.interrupts().map(|wakes| PollFd::from_borrowed_fd(wakes, PollFlags::IN)));
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => {}
            ready => drop(ready.context(|| "cannot wait for the other process of the copy")?),
        }
        monitor.advance(0)
    }

    fn write(&self, mut bytes: &[u8], monitor: &mut dyn Monitor) -> Result<()> {
        while !bytes.is_empty() {
            match rustix::net::send(&self.socket, bytes, rustix::net::SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                    self.wait(PollFlags::OUT, monitor)?
                }
                Err(errno) => {
                    self.broken.set(true);
                    return Err(errno).context(|| "cannot send to the other process of the copy");
                }
            }
        }
        Ok(())
    }

    fn read(&self, bytes: &mut [u8], monitor: &mut dyn Monitor) -> Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            match rustix::io::read(&self.socket, bytes.get_mut(at..).unwrap_or_default()) {
                Ok(0) => return Err(Error::new("the other process of the copy exited")),
                Ok(length) => at += length,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                    self.wait(PollFlags::IN, monitor)?
                }
                Err(errno) => {
                    return Err(errno).context(|| "cannot receive from the other process of the copy");
                }
            }
        }
        Ok(())
    }

    fn send(&self, frame: &Frame, monitor: &mut dyn Monitor) -> Result<()> {
        let text = serde_json::to_vec(frame).map_err(|error| Error::new(error.to_string()))?;
        self.write(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_ne_bytes(), monitor)?;
        self.write(&text, monitor)
    }

    fn receive(&self, monitor: &mut dyn Monitor) -> Result<Frame> {
        let mut length = [0u8; 4];
        self.read(&mut length, monitor)?;
        let length = u32::from_ne_bytes(length) as usize;
        if length > LONGEST {
            return Err(Error::new("received an invalid entry of the copy"));
        }
        let mut text = vec![0u8; length];
        self.read(&mut text, monitor)?;
        serde_json::from_slice(&text).map_err(|_| Error::new("received an invalid entry of the copy"))
    }

    /// Sends the result of this side to the peer.
    ///
    /// # Errors
    /// The peer has closed its end.
    pub(crate) fn finish(&self, result: Result<()>, monitor: &mut dyn Monitor) -> Result<()> {
        let frame = result.map_or_else(|error| Frame::Failed(error.into()), |()| Frame::End);
        self.send(&frame, monitor)
    }

    /// Waits for the result of the peer.
    ///
    /// # Errors
    /// The failure of the peer.
    pub(crate) fn finished(&self, monitor: &mut dyn Monitor) -> Result<()> {
        match self.receive(monitor)? {
            Frame::End => Ok(()),
            Frame::Failed(failure) => Err(failure.into()),
            Frame::Entry { .. } => Err(Error::new("received an invalid entry of the copy")),
        }
    }

    /// Passes received entries to a sink, until the peer has sent all. `kept` masks the mode bits.
    ///
    /// # Errors
    /// A failure of the peer or of the sink.
    pub(crate) fn receive_all(
        &self,
        sink: &mut impl Sink,
        kept: u32,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        loop {
            let (path, mut meta, kind, expected_length) = match self.receive(monitor)? {
                Frame::End => return Ok(()),
                Frame::Failed(failure) => return Err(failure.into()),
                Frame::Entry { path, meta, kind, expected_length } => {
                    (plain(&to_path(path))?, meta, kind, expected_length)
                }
            };
            monitor.count_entry()?;
            meta.mode &= kept;
            meta.attributes
                .retain(|(name, _)| name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_"));
            let mut parts = ReceivedContent { transfer: self, expected_length, length: 0, ended: false };
            let kind = match kind {
                FrameKind::Directory => EntryKind::Directory,
                FrameKind::Fifo => EntryKind::Fifo,
                FrameKind::Link(target) => EntryKind::Link(to_path(target)),
                FrameKind::Hard(first) => EntryKind::Hard(plain(&to_path(first))?),
                FrameKind::File => {
                    sink.take(&path, &meta, EntryKind::File(&mut parts), monitor)?;
                    if !parts.ended {
                        return Err(Error::new("the sink has not read the whole file"));
                    }
                    continue;
                }
            };
            sink.take(&path, &meta, kind, monitor)?;
        }
    }
}

impl Sink for &Transfer {
    fn take(
        &mut self,
        path: &Path,
        meta: &Meta,
        kind: EntryKind<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        let mut content = None;
        let sort = match kind {
            EntryKind::Directory => FrameKind::Directory,
            EntryKind::Fifo => FrameKind::Fifo,
            EntryKind::Node(..) => return Err(Error::new("devices and sockets are not transferred")),
            EntryKind::Link(target) => FrameKind::Link(from_path(&target)),
            EntryKind::Hard(first) => FrameKind::Hard(from_path(&first)),
            EntryKind::File(file) => {
                content = Some(file);
                FrameKind::File
            }
        };
        let expected_length = content.as_ref().and_then(|content| content.expected_length());
        self.send(
            &Frame::Entry { path: from_path(path), meta: meta.clone(), kind: sort, expected_length },
            monitor,
        )?;
        let Some(content) = content else { return Ok(()) };
        let reading = || format!("cannot copy {}", shown(path, "the source"));
        let mut buffer = Vec::with_capacity(PART);
        loop {
            let at = match content.next(&mut buffer, PART, monitor) {
                Ok(Some(at)) => at,
                Ok(None) => break,
                Err(error) => {
                    // The next frame has the cause.
                    self.write(&ABANDONED.to_ne_bytes(), monitor)?;
                    self.write(&0u64.to_ne_bytes(), monitor)?;
                    return Err(error.context(reading()));
                }
            };
            self.write(&u32::try_from(buffer.len()).unwrap_or_default().to_ne_bytes(), monitor)?;
            self.write(&at.to_ne_bytes(), monitor)?;
            self.write(&buffer, monitor)?;
            monitor.advance(buffer.len() as u64)?;
        }
        self.write(&0u32.to_ne_bytes(), monitor)?;
        self.write(&content.length().to_ne_bytes(), monitor)
    }
}

/// The length of a part in place of one that cannot be read.
const ABANDONED: u32 = u32::MAX;

/// The received content of a file.
struct ReceivedContent<'a> {
    transfer: &'a Transfer,
    expected_length: Option<u64>,
    length: u64,
    ended: bool,
}

impl Content for ReceivedContent<'_> {
    fn next(&mut self, buffer: &mut Vec<u8>, _: usize, monitor: &mut dyn Monitor) -> Result<Option<u64>> {
        if self.ended {
            return Ok(None);
        }
        let (mut length, mut at) = ([0u8; 4], [0u8; 8]);
        self.transfer.read(&mut length, monitor)?;
        self.transfer.read(&mut at, monitor)?;
        let (length, at) = (u32::from_ne_bytes(length) as usize, u64::from_ne_bytes(at));
        if length == 0 {
            (self.ended, self.length) = (true, at);
            return Ok(None);
        }
        let invalid = || Error::new("received an invalid part of a file");
        if length == ABANDONED as usize {
            return Err(self.transfer.finished(monitor).err().unwrap_or_else(invalid));
        }
        if length > PART {
            return Err(invalid());
        }
        buffer.resize(length, 0);
        self.transfer.read(buffer, monitor)?;
        Ok(Some(at))
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn expected_length(&self) -> Option<u64> {
        self.expected_length
    }
}

fn from_path(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn to_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}
