//! The control socket of a machine, `/run/coracle/NAME/control`: Varlink calls of root ([`crate::protocol`]),
//! and viewers of the console. Part of the event loop: it never waits, and bounds everything that it sends.
//! The guest cannot reach the socket: it lies on the host, and only root of the host gets replies.

use crate::error::{Context, Result};
use crate::protocol::{self, Call, CallError, Reply};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::path::Path;

/// The first number of a client among the events of the loop; lower ones are the loop's own.
pub(crate) const FIRST_CLIENT: u64 = 1000;
/// The longest call, bytes.
const LONGEST: usize = 128 << 10;
/// The largest number of clients at once.
const MOST_CLIENTS: usize = 32;

/// Input of a client.
#[derive(Debug)]
pub(crate) enum ClientEvent {
    /// A call, to be answered.
    Call(Call),
    /// Input of a viewer.
    Typed(Vec<u8>),
    /// Nothing to do.
    Nothing,
}

/// One connection.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// The received part of a call.
    buffer: Vec<u8>,
    is_viewer: bool,
    /// Whether the reply to its call follows later.
    is_waiting: bool,
    /// Whether the guest stays frozen until its connection ends.
    is_holder: bool,
}

/// The listening socket and its clients.
#[derive(Debug, Default)]
pub(crate) struct ControlSocket {
    listener: Option<OwnedFd>,
    clients: Vec<Option<Client>>,
}

impl ControlSocket {
    /// Listens at a path, in place of an earlier listener.
    ///
    /// # Errors
    /// Any error of bind(2) and listen(2).
    pub(crate) fn listen(path: &Path) -> Result<Self> {
        let listening = || format!("cannot listen at '{}'", path.display());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .context(listening)?;
        let address = SocketAddrUnix::new(path).context(listening)?;
        let bound = rustix::net::bind(&socket, &address).or_else(|error| match error {
            rustix::io::Errno::ADDRINUSE => {
                let _ = rustix::fs::unlink(path);
                rustix::net::bind(&socket, &address)
            }
            _ => Err(error),
        });
        bound.context(listening)?;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::chmod(path, mode).context(listening)?;
        rustix::net::listen(&socket, 16).context(listening)?;
        Ok(Self { listener: Some(socket), clients: Vec::new() })
    }

    /// Takes over a listening socket.
    pub(crate) fn from_listener(listener: OwnedFd) -> Self {
        Self { listener: Some(listener), clients: Vec::new() }
    }

    /// Returns the listening socket, for the next act.
    pub(crate) fn into_listener(self) -> Option<OwnedFd> {
        self.listener
    }

    /// Returns the listening socket, for epoll.
    pub(crate) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Accepts pending connections of root, up to the largest number of clients.
    pub(crate) fn accept(&mut self, epoll: &Epoll) {
        let Some(listener) = &self.listener else { return };
        while let Ok(socket) =
            rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            // nix, since rustix refuses the process id 0 of a client outside of this pid namespace.
            let credentials = getsockopt(&socket, PeerCredentials);
            if !credentials.is_ok_and(|credentials| credentials.uid() == 0) {
                continue;
            }
            let slot = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
            if slot >= MOST_CLIENTS {
                continue;
            }
            let event = EpollEvent::new(EpollFlags::EPOLLIN, FIRST_CLIENT + slot as u64);
            if epoll.add(&socket, event).is_err() {
                continue;
            }
            let (is_viewer, is_waiting, is_holder) = (false, false, false);
            let client = Some(Client { socket, buffer: Vec::new(), is_viewer, is_waiting, is_holder });
            match self.clients.get_mut(slot) {
                Some(free) => *free = client,
                None => self.clients.push(client),
            }
        }
    }

    /// Reads from the client of an event. Closes the connection at its end or after an invalid message.
    #[inline(never)]
    pub(crate) fn receive(&mut self, slot: usize) -> ClientEvent {
        let Some(Some(client)) = self.clients.get_mut(slot) else { return ClientEvent::Nothing };
        let mut buffer = [0u8; 1024];
        let length = match rustix::net::recv(&client.socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return self.close(slot),
            Ok((length, _)) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return ClientEvent::Nothing,
            Err(_) => return self.close(slot),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        if client.is_viewer {
            return ClientEvent::Typed(bytes.to_vec());
        }
        client.buffer.extend_from_slice(bytes);
        // A call ends with a NUL (varlink.org). Clients send the next call only after the reply to this one,
        // so the bytes behind the NUL are dropped.
        let Some(end) = client.buffer.iter().position(|byte| *byte == 0) else {
            return if client.buffer.len() > LONGEST { self.close(slot) } else { ClientEvent::Nothing };
        };
        let message = std::mem::take(&mut client.buffer);
        match Call::parse(message.get(..end).unwrap_or_default()) {
            Ok(call) => ClientEvent::Call(call),
            Err(error) => {
                self.reply(slot, Err(error));
                ClientEvent::Nothing
            }
        }
    }

    /// Returns whether no client is connected.
    pub(crate) fn is_idle(&self) -> bool {
        self.clients.is_empty()
    }

    /// Replies to a call.
    pub(crate) fn reply(&mut self, slot: usize, reply: std::result::Result<Reply, CallError>) {
        match protocol::message(&reply) {
            Some(message) => {
                let mut bytes = message.to_string().into_bytes();
                bytes.push(0);
                self.send(slot, &bytes);
            }
            None => drop(self.close(slot)),
        }
    }

    /// Notes that [`Self::reply_to_waiting`] replies to the client later.
    pub(crate) fn wait(&mut self, slot: usize) {
        if let Some(Some(client)) = self.clients.get_mut(slot) {
            client.is_waiting = true;
        }
    }

    /// Replies to a waiting client. Another client may have its slot meanwhile: that one gets no reply.
    pub(crate) fn reply_to_waiting(&mut self, slot: usize, reply: std::result::Result<Reply, CallError>) {
        if let Some(Some(client)) = self.clients.get_mut(slot)
            && std::mem::take(&mut client.is_waiting)
        {
            self.reply(slot, reply);
        }
    }

    /// Notes whether the guest stays frozen until the connection of a client ends.
    pub(crate) fn set_holder(&mut self, slot: usize, is_holder: bool) {
        if let Some(Some(client)) = self.clients.get_mut(slot) {
            client.is_holder = is_holder;
        }
    }

    /// Returns whether there is a client for which the guest stays frozen.
    pub(crate) fn has_holder(&self) -> bool {
        self.clients.iter().flatten().any(|client| client.is_holder)
    }

    /// Makes a client a viewer of the console and sends it the kept output first.
    pub(crate) fn begin_viewing(&mut self, slot: usize, kept: &[u8]) {
        self.reply(slot, Ok(Reply::Done {}));
        if let Some(Some(client)) = self.clients.get_mut(slot) {
            client.is_viewer = true;
            self.send(slot, kept);
        }
    }

    /// Sends console output to all viewers. Closes the connection of a viewer that does not read.
    pub(crate) fn show(&mut self, bytes: &[u8]) {
        for slot in 0..self.clients.len() {
            if matches!(self.clients.get(slot), Some(Some(client)) if client.is_viewer) {
                self.send(slot, bytes);
            }
        }
    }

    fn send(&mut self, slot: usize, bytes: &[u8]) {
        let Some(Some(client)) = self.clients.get(slot) else { return };
        if rustix::net::send(&client.socket, bytes, SendFlags::NOSIGNAL) != Ok(bytes.len()) {
            self.close(slot);
        }
    }

    /// Closes a connection. Frees the table with the last one.
    fn close(&mut self, slot: usize) -> ClientEvent {
        if let Some(client) = self.clients.get_mut(slot) {
            *client = None;
        }
        if self.clients.iter().all(Option::is_none) {
            self.clients = Vec::new();
        }
        ClientEvent::Nothing
    }
}
