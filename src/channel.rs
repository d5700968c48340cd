//! The typed channel between the supervisor and its children. Each end has its own type, so the compiler
//! checks the direction of each message. Messages are datagrams of bounded size; bytes from a child are
//! untrusted and decode into a value or an error.

use crate::error::{Context, Error, Kind, Result};
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

/// A synchronisation point of parent and child. The order here is the order of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SyncPoint {
    /// The child is cloned into a user namespace; the parent maps its ids.
    Cloned,
    /// The child has all its namespaces; the parent starts the builder and creates the network link.
    Unshared,
    /// The child is ready to execute the payload. The parent holds it only if it has started the machine's
    /// link or its registration meanwhile.
    Ready,
}

/// A message of a child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromPayload {
    /// It waits at a synchronisation point.
    Reached(SyncPoint),
    /// Another process continues in its place. Carries its pidfd.
    Replaced,
    /// It has opened a terminal. Carries the master side.
    Terminal,
    /// It has created the pipe that stands for the kernel's log. Carries the pipe.
    KernelLog,
    /// It has opened the console of the machine. Carries the master side.
    Console,
    /// All its steps are done.
    Done,
    /// An optional step failed; the child continues with the next one.
    Warned(StepFailure),
    /// A step failed; the child ends.
    Failed(StepFailure),
    /// The guest's files do not fit the request; the child ends.
    Refused(Refusal),
}

/// A message of the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToPayload {
    /// Continue after a synchronisation point.
    Go(SyncPoint),
}

/// A failed step of a child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFailure {
    /// The number of the step, from one.
    pub(crate) step: usize,
    /// The number of steps.
    pub(crate) of: usize,
    /// The step's own description.
    pub doing: String,
    /// The cause.
    pub cause: String,
    /// The hint, if there is one.
    pub(crate) hint: Option<String>,
}

/// The reason why a child does not carry out a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    cause: String,
    hint: Option<String>,
    /// Whether the files of the guest do not list a user or group.
    is_unknown_user: bool,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self { cause: error.to_string(), hint, is_unknown_user: error.is_unknown_user() }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let kind = if refusal.is_unknown_user { Kind::UnknownUser } else { Kind::Failure };
        let error = Self::new(shorten(&refusal.cause)).with_kind(kind);
        match refusal.hint {
            Some(hint) => error.with_hint(shorten(&hint)),
            None => error,
        }
    }
}

impl StepFailure {
    /// Returns whether the last step failed, which executes the payload.
    pub(crate) fn is_last(&self) -> bool {
        self.step == self.of
    }

    /// Returns the cause in one line.
    pub(crate) fn cause(&self) -> String {
        shorten(&self.cause)
    }

    /// Returns the failed step and its cause in one line, for a warning.
    pub(crate) fn in_short(&self) -> String {
        format!("cannot {}: {}", shorten(&self.doing), shorten(&self.cause))
    }
}

impl From<StepFailure> for Error {
    fn from(failure: StepFailure) -> Self {
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

/// Returns text from a child as one printable line.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(1000).collect()
}

/// The supervisor's end.
#[derive(Debug)]
pub struct ParentEnd(OwnedFd);

/// The child's end.
#[derive(Debug)]
pub struct ChildEnd(OwnedFd);

/// Creates a channel. Both ends are close-on-exec: after the last synchronisation point, end of file means a
/// successful exec.
///
/// # Errors
/// Any error of socketpair(2).
pub fn pair() -> Result<(ParentEnd, ChildEnd)> {
    let (parent, child) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .context(|| "cannot create the channel to the child")?;
    Ok((ParentEnd(parent), ChildEnd(child)))
}

impl ParentEnd {
    /// Receives the next message of the child and its descriptor. `None` at the end of the channel.
    ///
    /// # Errors
    /// An invalid or too long message.
    pub fn receive(&self) -> Result<Option<(FromPayload, Option<OwnedFd>)>> {
        receive(self.0.as_fd())
    }

    /// Releases the child from a synchronisation point.
    ///
    /// # Errors
    /// `EPIPE` if the child has ended.
    pub(crate) fn release(&self, sync: SyncPoint) -> Result<()> {
        send(self.0.as_fd(), &ToPayload::Go(sync), None)
    }
}

impl AsFd for ParentEnd {
    /// For waiting for the next message.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for ChildEnd {
    /// For keeping it open where all other descriptors are closed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ChildEnd {
    /// Waits at a synchronisation point until the parent releases it.
    ///
    /// # Errors
    /// An ended parent, or another message of it.
    pub(crate) fn sync(&self, sync: SyncPoint) -> Result<()> {
        self.report(sync)?;
        match receive(self.0.as_fd())? {
            Some((ToPayload::Go(released), _)) if released == sync => Ok(()),
            Some((ToPayload::Go(released), _)) => Err(Error::new(format!(
                "protocol error: the supervisor released '{released:?}', expected '{sync:?}'"
            ))),
            None => Err(Error::new("the supervisor has ended")),
        }
    }

    /// Reports a synchronisation point at which the parent does not hold the child.
    ///
    /// # Errors
    /// `EPIPE` if the parent has ended.
    pub(crate) fn report(&self, sync: SyncPoint) -> Result<()> {
        send(self.0.as_fd(), &FromPayload::Reached(sync), None)
    }

    /// Sends a message, with a descriptor if there is one.
    ///
    /// # Errors
    /// `EPIPE` if the parent has ended.
    pub(crate) fn send(&self, message: &FromPayload, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
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
        .context(|| "cannot send to the other end of the channel")?;
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
            // A child killed with unread messages resets the channel: the same as its end.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            result => break result.context(|| "cannot receive from the other end of the channel")?.bytes,
        }
    };
    if received == 0 {
        return Ok(None);
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let message = serde_json::from_slice(buffer.get(..received).unwrap_or_default()).map_err(|error| {
        Error::new(format!("received an invalid message from the child process: {error}"))
    })?;
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
    fn an_ended_parent_is_detected() {
        let (parent, child) = pair().unwrap();
        child.report(SyncPoint::Ready).unwrap();
        drop(parent);
        assert!(child.report(SyncPoint::Ready).is_err());
    }

    #[test]
    fn an_invalid_message_is_an_error() {
        let (parent, child) = pair().unwrap();
        rustix::io::write(&child.0, b"\xff{noise").unwrap();
        assert!(parent.receive().is_err());
    }

    #[test]
    fn synchronisation_points_are_in_protocol_order() {
        assert!(SyncPoint::Cloned < SyncPoint::Unshared && SyncPoint::Unshared < SyncPoint::Ready);
    }
}
