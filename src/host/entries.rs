//! Entries for the host's journal, in the native protocol of systemd-journald(8): what the guest
//! says on its console, a datagram a line. Nothing is kept here.

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::path::Path;

/// Where journald receives entries.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A way to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl Journal {
    /// Opens it, where there is a journald.
    pub fn open() -> Option<Self> {
        if !Path::new(SOCKET).exists() {
            return None;
        }
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
        Some(Self { socket, address: SocketAddrUnix::new(SOCKET).ok()? })
    }

    /// Sends an entry; one that cannot be sent is lost, as on any console nobody reads.
    pub fn send(&self, fields: &[(&str, &[u8])]) {
        let mut datagram = Vec::with_capacity(256);
        for (name, value) in fields {
            // The form with a length: a value may hold any byte, a new line too.
            datagram.extend_from_slice(name.as_bytes());
            datagram.push(b'\n');
            datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
            datagram.extend_from_slice(value);
            datagram.push(b'\n');
        }
        let _ = rustix::net::sendto(
            &self.socket,
            &datagram,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            &self.address,
        );
    }
}
