//! Fetches the layers of an image into a layout, several at once. Every file has the size and the digest that the
//! manifest says. An interrupted transfer goes on where it has ended. Called by `download`.

use super::helper::Reply;
use super::server::{Failure, Server};
use crate::error::{Context, Error, Result};
use crate::image::oci::digest::Digest;
use crate::image::oci::document::Descriptor;
use crate::tree::copy::CopyProgress;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// The transfers at once.
const STREAMS: usize = 3;
/// The bytes per read.
const PART: usize = 256 << 10;
/// The time between two checks for an interruption, and for the end of a pause.
const INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The state of a transfer.
enum TransferState {
    /// It begins at this time.
    Paused(Instant),
    /// A reply is expected, or received: from this position of the file on.
    Receiving(Box<Reply>, Option<u64>),
    /// The file is complete.
    Complete,
}

/// The transfer of a layer, in as many parts as it needs.
struct Transfer {
    digest: Digest,
    size: u64,
    path: String,
    file: File,
    /// The bytes that the file has, without a gap.
    end: u64,
    attempts: u32,
    state: TransferState,
}

/// Fetches layers into the directory of a layout. A layer that an image has twice is fetched once.
///
/// # Errors
/// A layer that the server does not have, one with another content, or an interruption.
pub(super) fn fetch(
    server: &mut Server,
    directory: BorrowedFd<'_>,
    layers: &[&Descriptor],
    progress: &mut CopyProgress<'_>,
) -> Result<()> {
    let mut waiting: VecDeque<Transfer> = VecDeque::new();
    for layer in layers {
        let digest = layer.checked_digest()?;
        if !waiting.iter().any(|other| other.digest == digest) {
            let created = Transfer::create(directory, digest, layer.size);
            server.has_local_failure |= created.is_err();
            waiting.push_back(created?);
        }
    }
    let mut active: Vec<Transfer> = Vec::new();
    let mut part = vec![0; PART];
    loop {
        while active.len() < STREAMS
            && let Some(next) = waiting.pop_front()
        {
            active.push(next);
        }
        if active.is_empty() {
            return Ok(());
        }
        for transfer in &mut active {
            transfer.begin(server)?;
        }
        for index in ready(&active)? {
            if let Some(transfer) = active.get_mut(index) {
                let bytes = transfer.receive(server, &mut part)?;
                server.advance(progress, bytes)?;
            }
        }
        server.advance(progress, 0)?;
        active.iter_mut().try_for_each(Transfer::check_stalled)?;
        active.retain(|transfer| !matches!(transfer.state, TransferState::Complete));
    }
}

/// Waits until a transfer has received something, or for a moment. Returns the numbers of those that have.
fn ready(active: &[Transfer]) -> Result<Vec<usize>> {
    let mut numbers = Vec::new();
    let mut polled = Vec::new();
    for (number, transfer) in active.iter().enumerate() {
        if let TransferState::Receiving(reply, _) = &transfer.state {
            numbers.push(number);
            polled.push(PollFd::from_borrowed_fd(reply.output(), PollFlags::IN));
        }
    }
    match poll(&mut polled, Some(&INTERVAL)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno).context(|| "cannot wait for the registry"),
    }
    let is_ready = |(_, end): &(usize, &PollFd<'_>)| !end.revents().is_empty();
    Ok(numbers.into_iter().zip(&polled).filter(is_ready).map(|(number, _)| number).collect())
}

impl Transfer {
    fn create(directory: BorrowedFd<'_>, digest: Digest, size: u64) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, digest.blob(), flags, Mode::RUSR | Mode::WUSR)
            .context(|| "cannot write a layer")?;
        let path = format!("blobs/{digest}");
        let state = TransferState::Paused(Instant::now());
        Ok(Self { digest, size, path, file: file.into(), end: 0, attempts: 0, state })
    }

    /// Begins an attempt, if its time has come.
    fn begin(&mut self, server: &mut Server) -> Result<()> {
        if matches!(self.state, TransferState::Paused(from) if from <= Instant::now()) {
            self.attempts += 1;
            let reply = server.request(&self.path, self.end)?;
            self.state = TransferState::Receiving(Box::new(reply), None);
        }
        Ok(())
    }

    /// Receives a part of the reply, which is ready. Returns its bytes of the layer.
    fn receive(&mut self, server: &mut Server, part: &mut [u8]) -> Result<u64> {
        match self.receive_part(server, part) {
            Ok(bytes) => Ok(bytes),
            Err(failure) => self.pause(failure).map(|()| 0),
        }
    }

    /// Ends an attempt whose reply is not continued.
    fn check_stalled(&mut self) -> Result<()> {
        let TransferState::Receiving(reply, _) = &self.state else { return Ok(()) };
        reply.check_stalled().or_else(|error| self.pause(Failure::Transient(error, None)))
    }

    fn pause(&mut self, failure: Failure) -> Result<()> {
        let pause = failure.pause(self.attempts, &self.path)?;
        self.state = TransferState::Paused(Instant::now() + pause);
        Ok(())
    }

    fn receive_part(&mut self, server: &mut Server, part: &mut [u8]) -> std::result::Result<u64, Failure> {
        let TransferState::Receiving(reply, position) = &mut self.state else { return Ok(0) };
        let received = reply.receive(part).map_err(|error| Failure::Transient(error, None))?;
        let received = part.get(..received).unwrap_or_default();
        let (at, body) = match *position {
            Some(at) => (at, received.to_vec()),
            None => {
                let head = reply.take_head(received).map_err(|error| Failure::Transient(error, None))?;
                let Some((head, body)) = head else { return Ok(0) };
                server.accept(&head, &self.path)?;
                // A server need not send the part that was requested.
                if head.from > self.end {
                    return Err(Failure::Final(Error::new("the server sent another part of the layer")));
                }
                *position = Some(head.from);
                if body.is_empty() {
                    return Ok(0);
                }
                (head.from, body)
            }
        };
        if body.is_empty() {
            return self.finish().map(|()| 0);
        }
        let end = at + body.len() as u64;
        if end > self.size {
            let text = format!("'{}' is larger than {} bytes", self.path, self.size);
            return Err(Failure::Final(Error::new(text)));
        }
        let written = self.file.write_all_at(&body, at).context(|| "cannot write a layer");
        server.has_local_failure |= written.is_err();
        written.map_err(Failure::Final)?;
        *position = Some(end);
        self.end = end;
        Ok(body.len() as u64)
    }

    /// Checks the layer at the end of a reply.
    fn finish(&mut self) -> std::result::Result<(), Failure> {
        if self.end < self.size {
            let text = format!("the transfer of {} ended early", self.digest);
            return Err(Failure::Transient(Error::new(text), None));
        }
        let found = digest_of(&self.file).map_err(Failure::Final)?;
        if found != self.digest {
            // Nothing of it is used again.
            self.end = 0;
            let text = format!("the digest of a layer is {found} instead of {}", self.digest);
            return Err(Failure::Transient(Error::new(text), None));
        }
        self.state = TransferState::Complete;
        Ok(())
    }
}

fn digest_of(file: &File) -> Result<Digest> {
    let (mut hash, mut part, mut at) = (Sha256::new(), vec![0; PART], 0);
    loop {
        let length = file.read_at(&mut part, at).context(|| "cannot read a layer")?;
        if length == 0 {
            let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            return Ok(Digest::of_digits(&digits));
        }
        hash.update(part.get(..length).unwrap_or_default());
        at += length as u64;
    }
}
