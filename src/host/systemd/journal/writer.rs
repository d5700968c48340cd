//! Entries for the host's journal, in the native protocol of systemd-journald(8): what the guest
//! says on its console, a datagram a line. Nothing is kept here.

use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::path::Path;
use std::time::Duration;

/// Where journald receives entries.
const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a journald that is behind is waited for: meanwhile the guest's console fills up and the
/// guest waits in its turn, instead of anything here growing.
const PATIENCE: Duration = Duration::from_millis(500);

/// A way to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: OwnedFd,
    address: SocketAddrUnix,
    /// Whether journald did not take the last entry in time.
    is_stuck: bool,
}

impl Journal {
    /// Opens it, where there is a journald.
    pub fn open() -> Option<Self> {
        if !Path::new(SOCKET).exists() {
            return None;
        }
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
        if let Err(error) = set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE)) {
            log::debug!("cannot bound the way to the journal: {error}, ignoring");
            return None;
        }
        Some(Self { socket, address: SocketAddrUnix::new(SOCKET).ok()?, is_stuck: false })
    }

    /// Sends an entry. A journald that is behind is waited for; from one that does not go on, entries
    /// are kept back until it does, as from any console that nobody reads.
    pub fn send(&mut self, fields: &[(&str, &[u8])]) {
        let mut datagram = Vec::with_capacity(256);
        for (name, value) in fields {
            // The form with a length: a value may hold any byte, a new line too.
            datagram.extend_from_slice(name.as_bytes());
            datagram.push(b'\n');
            datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
            datagram.extend_from_slice(value);
            datagram.push(b'\n');
        }
        let mut flags = SendFlags::NOSIGNAL;
        flags.set(SendFlags::DONTWAIT, self.is_stuck);
        let sent = rustix::net::sendto(&self.socket, &datagram, flags, &self.address);
        self.is_stuck = sent == Err(rustix::io::Errno::AGAIN);
    }
}
