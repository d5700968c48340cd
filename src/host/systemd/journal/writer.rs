//! Writes entries to the host's journal, in the native protocol of systemd-journald(8): the guest's console
//! output, one datagram per line. Nothing is stored here.

use crate::paths::running_systemd;
use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::time::Duration;

/// The socket of journald, below the directory of systemd.
const SOCKET: &str = "journal/socket";

/// The timeout for a slow journald: meanwhile the guest's console fills up and the guest blocks, instead of
/// memory growing here.
const PATIENCE: Duration = Duration::from_millis(500);

/// A connection to the journal.
#[derive(Debug)]
pub(crate) struct JournalWriter {
    socket: OwnedFd,
    address: SocketAddrUnix,
    /// Whether journald did not accept the last entry in time.
    is_stuck: bool,
}

impl JournalWriter {
    /// Opens a connection. `None` if there is no journald.
    pub(crate) fn open() -> Option<Self> {
        let path = running_systemd(SOCKET);
        if !path.exists() {
            return None;
        }
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
        if let Err(error) = set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE)) {
            log::debug!("cannot set the timeout of the journal socket: {error}, ignoring");
            return None;
        }
        Some(Self { socket, address: SocketAddrUnix::new(&path).ok()?, is_stuck: false })
    }

    /// Sends an entry. Waits for a slow journald; if it does not accept entries in time, they are held back
    /// until it does.
    pub(crate) fn send(&mut self, fields: &[(&str, &[u8])]) {
        let mut datagram = Vec::with_capacity(256);
        for (name, value) in fields {
            // The form with a length: a value may contain any byte, newlines included.
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
