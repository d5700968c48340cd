//! A datagram socket for messages of guest processes, read without closing descriptors of the guest. Used by
//! `notify_in` and `syslog`.
//!
//! The receiving task closes a received descriptor, even without room for it, and the guest controls the
//! duration of close(2): a TCP socket with SO_LINGER, a file of a FUSE server. From Linux 6.16 on the kernel
//! refuses such messages (SO_PASSRIGHTS). On older kernels a message is peeked at first (MSG_PEEK); a child
//! process receives one with descriptors and exits: sockets do not linger then, and any other delay only
//! affects the child. The number of such children is bounded.
//!
//! The same child sends descriptors on to the service manager, if the caller has a message for them.

use super::descriptor_store::{self, MOST_DESCRIPTORS};
use crate::error::Result;
use crate::sys::{descriptor, process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use rustix::process::Pid;
use std::io::IoSliceMut;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::time::{Duration, Instant};

/// The largest number of children at once.
const MOST_CHILDREN: usize = 4;
/// The time limit of a child for one message.
const RECEIVING: Duration = Duration::from_millis(200);
/// The pause after a message that cannot be received.
const PAUSE: Duration = Duration::from_secs(1);

/// The variable that disables the use of SO_PASSRIGHTS, for tests of the behaviour on older kernels.
pub(crate) const ACCEPT: &str = "CORACLE_DEBUG_ACCEPT_DESCRIPTORS";

/// A socket for messages of guest processes.
#[derive(Debug)]
pub(crate) struct Inbox {
    socket: OwnedFd,
    accepts_descriptors: bool,
    children: Vec<OwnedFd>,
    paused: Option<Instant>,
}

/// A received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// Its length in the buffer, bytes.
    pub(crate) length: usize,
    /// The sender's process id.
    pub(crate) sender: Option<u32>,
}

/// Makes the kernel refuse descriptors at a new socket, if it can.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) {
    if std::env::var_os(ACCEPT).is_some() {
        return;
    }
    if let Err(error) = descriptor::refuse_descriptors(socket) {
        log::debug!("cannot refuse descriptors of the guest: {error}, ignoring");
    }
}

impl Inbox {
    /// Takes over a socket with SO_PASSCRED.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        let accepts_descriptors = descriptor::accepts_descriptors(socket.as_fd());
        Self { socket, accepts_descriptors, children: Vec::new(), paused: None }
    }

    /// Returns the socket, for the next act.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Returns the remaining pause. `None` if the socket is not paused.
    pub(crate) fn paused(&self) -> Option<Duration> {
        self.paused.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Ends a pause that is over. Returns whether the socket has to be watched again.
    pub(crate) fn resume(&mut self) -> bool {
        let is_over = self.paused.is_some_and(|until| until <= Instant::now());
        if is_over {
            self.paused = None;
        }
        is_over
    }

    /// Receives the next datagram and discards its descriptors. `None` if there is none, or it cannot be
    /// received now.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Option<Received> {
        self.receive_sending(buffer, |_, _| None)
    }

    /// Receives the next datagram. Its descriptors are sent to the service manager with the message that
    /// `message` returns for its text and its sender, else discarded. `None` if there is none, or it cannot be
    /// received now.
    pub(crate) fn receive_sending(
        &mut self,
        buffer: &mut [u8],
        message: impl FnOnce(&[u8], Option<u32>) -> Option<String>,
    ) -> Option<Received> {
        if self.paused.is_some() {
            return None;
        }
        if !self.accepts_descriptors {
            return receive(self.socket.as_fd(), buffer, RecvFlags::empty()).map(|(received, _)| received);
        }
        let (received, has_descriptors) = receive(self.socket.as_fd(), buffer, RecvFlags::PEEK)?;
        if !has_descriptors {
            return receive(self.socket.as_fd(), buffer, RecvFlags::empty()).map(|(received, _)| received);
        }
        let message = message(buffer.get(..received.length).unwrap_or_default(), received.sender);
        match self.receive_in_child(message.as_deref()) {
            Ok(()) => Some(received),
            Err(error) => {
                log::debug!("cannot receive a message of the guest: {error}, waiting");
                self.paused = Some(Instant::now() + PAUSE);
                None
            }
        }
    }

    /// Receives the remaining messages of an ended guest.
    pub(crate) fn drain(&mut self) {
        while self.receive(&mut [0; 64]).is_some() {}
    }

    /// Makes a child receive the next message, send its descriptors on with `message` if there is one, and
    /// exit.
    fn receive_in_child(&mut self, message: Option<&str>) -> Result<()> {
        self.children.retain(|child| process::has_ended(child.as_fd()).is_none());
        if self.children.len() >= MOST_CHILDREN {
            return Err(crate::error::Error::new("too many children are closing descriptors of the guest"));
        }
        let (done, open) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let main = rustix::process::getpid();
        let child = match process::clone(0, None)? {
            process::Side::Child => receive_and_exit(&self.socket, open, main, message),
            process::Side::Parent(child) => child.pidfd,
        };
        drop(open);
        // It holds only the message now: this process does not wait for its end.
        let has_received = wait_until_closed(&done);
        if !has_received {
            let _ = process::send_signal(child.as_fd(), libc::SIGKILL);
        }
        if process::has_ended(child.as_fd()).is_none() {
            self.children.push(child);
        }
        if has_received {
            Ok(())
        } else {
            Err(crate::error::Error::new("the child did not receive it in time"))
        }
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> Option<(Received, bool)> {
    // Room for the credentials of each message (SO_PASSCRED) only: descriptors are discarded, and MSG_CTRUNC
    // reports them.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags).ok()?;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => {
            Some(credentials.pid.as_raw_nonzero().get().cast_unsigned())
        }
        _ => None,
    });
    Some((Received { length: received.bytes, sender }, received.flags.contains(ReturnFlags::CTRUNC)))
}

/// Receives one message with its descriptors in the child of `main`, sends them on with `message` if there is
/// one, reports that by closing the pipe, and exits.
fn receive_and_exit(socket: &OwnedFd, open: OwnedFd, main: Pid, message: Option<&str>) -> ! {
    // The child must not hold locks of the supervisor.
    if rustix::stdio::dup2_stdin(&open).is_err() {
        process::exit_now(1);
    }
    std::mem::forget(open);
    descriptor::close_from(3, socket.as_fd());
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut [])];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, slices, &mut control, flags);
    if let Some(message) = message.filter(|_| received.is_ok()) {
        let rights = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights.collect::<Vec<OwnedFd>>()),
            _ => None,
        });
        let rights = ManuallyDrop::new(rights.unwrap_or_default());
        // A service whose store is full, or that has ended.
        let _ = descriptor_store::send(main, message, &rights);
    }
    let _ = rustix::stdio::dup2_stdin(socket);
    // The descriptors and the buffer are not dropped: that would close the received descriptors.
    process::exit_now(0)
}

fn wait_until_closed(pipe: &OwnedFd) -> bool {
    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(RECEIVING.subsec_nanos()) };
    poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&limit)).is_ok_and(|ready| ready > 0)
}
