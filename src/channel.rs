//! The typed channel between the supervisor and its children. Each end has its own type, so that
//! who may say what is checked by the compiler. Messages are datagrams of bounded size; bytes from
//! a child are untrusted and decode into a value or an error.

use crate::error::{Context, Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// The largest message, bytes.
const LIMIT: usize = 4096;

/// Where parent and child meet. The order here is the order of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SyncPoint {
    /// The child exists; the parent maps its ids.
    Cloned,
    /// The child has all its namespaces; the parent has the tree built and the link made.
    Unshared,
    /// The child is ready to execute; the parent has told everybody.
    Ready,
}

/// What a child says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromPayload {
    /// It waits at a meeting.
    Reached(SyncPoint),
    /// Another process goes on in its place, whose pidfd comes along.
    Replaced,
    /// It has a terminal, whose other side comes along.
    Terminal,
    /// It has created the pipe that stands for the kernel's log, whose descriptor comes along.
    KernelLog,
    /// All its steps are done; with it may come the console's descriptor.
    Done,
    /// A step failed which the machine can do without; the next one follows.
    Warned(Failure),
    /// A step failed.
    Failed(Failure),
}

/// What the parent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToPayload {
    /// Go on from a meeting.
    Go(SyncPoint),
}

/// A failed step of a child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which step, counted from one.
    pub step: usize,
    /// Of how many.
    pub of: usize,
    /// The step's own description.
    pub doing: String,
    /// The cause.
    pub cause: String,
    /// The hint, where known.
    pub hint: Option<String>,
}

impl Failure {
    /// The failed step and its cause in one line, for a warning.
    pub fn in_short(&self) -> String {
        format!("cannot {}: {}", shorten(&self.doing), shorten(&self.cause))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let error = Self::new(shorten(&failure.cause)).context(format!(
            "step {} of {}: {}",
            failure.step,
            failure.of,
            shorten(&failure.doing)
        ));
        match failure.hint {
            Some(hint) => error.with_hint(shorten(&hint)),
            None => error,
        }
    }
}

/// Text from a child as one printable line.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(1000).collect()
}

/// The supervisor's end.
#[derive(Debug)]
pub struct ParentEnd(OwnedFd);

/// The child's end.
#[derive(Debug)]
pub struct ChildEnd(OwnedFd);

/// A new link, both ends close-on-exec: after the last meeting, end of file means that the exec
/// succeeded.
///
/// # Errors
/// What socketpair(2) says.
pub fn pair() -> Result<(ParentEnd, ChildEnd)> {
    let (parent, child) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .context(|| "cannot make the link to the child")?;
    Ok((ParentEnd(parent), ChildEnd(child)))
}

impl ParentEnd {
    /// The next message of the child with the descriptor that came along, or nothing at its end.
    ///
    /// # Errors
    /// A message that is too long or not understood.
    pub fn receive(&self) -> Result<Option<(FromPayload, Option<OwnedFd>)>> {
        receive(self.0.as_fd())
    }

    /// Lets the child go on from a meeting.
    ///
    /// # Errors
    /// `EPIPE` where the child is gone.
    pub fn release(&self, sync: SyncPoint) -> Result<()> {
        send(self.0.as_fd(), &ToPayload::Go(sync), None)
    }
}

impl AsFd for ParentEnd {
    /// To wait for the next message.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for ChildEnd {
    /// To be kept where all else is closed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ChildEnd {
    /// Waits at a meeting until the parent says go.
    ///
    /// # Errors
    /// A parent that is gone or says something else.
    pub fn sync(&self, sync: SyncPoint) -> Result<()> {
        send(self.0.as_fd(), &FromPayload::Reached(sync), None)?;
        match receive(self.0.as_fd())? {
            Some((ToPayload::Go(said), _)) if said == sync => Ok(()),
            Some(_) => Err(Error::new("the supervisor is at another meeting")),
            None => Err(Error::new("the supervisor is gone")),
        }
    }

    /// Says something, with a descriptor where one goes along.
    ///
    /// # Errors
    /// `EPIPE` where the parent is gone.
    pub fn send(&self, message: &FromPayload, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
        send(self.0.as_fd(), message, descriptor)
    }
}

fn send<M: Serialize>(socket: BorrowedFd<'_>, message: &M, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
    let bytes = serde_json::to_vec(message).map_err(|error| Error::new(error.to_string()))?;
    let bytes = bytes.get(..LIMIT.min(bytes.len())).unwrap_or_default();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
        .context(|| "cannot speak to the other end of the link")?;
    Ok(())
}

fn receive<M: for<'de> Deserialize<'de>>(socket: BorrowedFd<'_>) -> Result<Option<(M, Option<OwnedFd>)>> {
    let mut buffer = [0u8; LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let slices = &mut [IoSliceMut::new(&mut buffer)];
        match rustix::net::recvmsg(socket, slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            // A child that was killed with messages unread resets the link: the same as its end.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            result => break result.context(|| "cannot hear the other end of the link")?.bytes,
        }
    };
    if received == 0 {
        return Ok(None);
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let message = serde_json::from_slice(buffer.get(..received).unwrap_or_default())
        .map_err(|error| Error::new(format!("the other end of the link said something strange: {error}")))?;
    Ok(Some((message, descriptor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_cross() {
        let (parent, child) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        child.send(&FromPayload::Done, Some(file.as_fd())).unwrap();
        let (message, descriptor) = parent.receive().unwrap().unwrap();
        assert_eq!(message, FromPayload::Done);
        assert!(descriptor.is_some());
        drop(child);
        assert!(parent.receive().unwrap().is_none());
    }

    #[test]
    fn noise_is_an_error() {
        let (parent, child) = pair().unwrap();
        rustix::io::write(&child.0, b"\xff{noise").unwrap();
        assert!(parent.receive().is_err());
    }

    #[test]
    fn meetings_are_in_protocol_order() {
        assert!(SyncPoint::Cloned < SyncPoint::Unshared && SyncPoint::Unshared < SyncPoint::Ready);
    }
}
