//! A DHCP server and router advertiser for one guest, on its own link only. Called by `launch`, which opens
//! the socket, and by the event loop. A socket filter passes only requests of the guest; after a router
//! solicitation it wakes the loop a few times a day to advertise the route again. The work is bounded as in
//! `syslog`.

use crate::error::{Context, Result};
use crate::network::dhcp::{LONGEST, Lease, ROUTE_LIFETIME};
use crate::sys::packet;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The number of requests read in one turn of the loop.
const TURN: usize = 8;
/// The largest number of answers in [`WINDOW`].
const MANY: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);
/// The interval of advertisements: two may be lost before the route expires.
const AGAIN: Duration = Duration::from_secs(ROUTE_LIFETIME as u64 / 3);

/// The requests of a guest that need repeated answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Solicited {
    /// None, or DHCP requests only.
    Nothing,
    /// A router solicitation.
    Router,
}

/// The server of a guest's link.
#[derive(Debug)]
pub(crate) struct DhcpServer {
    lease: Lease,
    socket: OwnedFd,
    since: Instant,
    given: u32,
    /// The time of the next advertisement.
    due: Option<Instant>,
}

/// Opens the socket for an existing link.
///
/// # Errors
/// Any error of socket(2), bind(2) and attaching the filter.
pub(crate) fn open(lease: &Lease, ifindex: u32) -> Result<OwnedFd> {
    packet::open(ifindex, &lease.filter()).context(|| "cannot listen for DHCP requests on the machine's link")
}

impl DhcpServer {
    /// Takes over the socket, and the guest's earlier requests.
    pub(crate) fn new(lease: Lease, socket: OwnedFd, solicited: Solicited) -> Self {
        let now = Instant::now();
        let due = (solicited == Solicited::Router).then_some(now);
        Self { lease, socket, since: now, given: 0, due }
    }

    /// Returns the guest's requests, for the next act.
    pub(crate) fn solicited(&self) -> Solicited {
        if self.due.is_some() { Solicited::Router } else { Solicited::Nothing }
    }

    /// Returns the socket, for epoll.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns the socket, for the next act.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Reads pending requests and answers them.
    #[inline(never)]
    pub(crate) fn read(&mut self) {
        let mut buffer = [0u8; LONGEST];
        for _ in 0..TURN {
            match rustix::net::recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, length)) => self.reply(buffer.get(..length).unwrap_or_default()),
                // The link is down; it may come up again.
                Err(Errno::NETDOWN | Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }

    fn reply(&mut self, frame: &[u8]) {
        if self.since.elapsed() > WINDOW {
            (self.since, self.given) = (Instant::now(), 0);
        }
        if self.given >= MANY {
            return;
        }
        if let Some(answer) = self.lease.answer(frame) {
            self.given += 1;
            if Lease::is_advertisement(&answer) {
                self.due = Some(Instant::now() + AGAIN);
            }
            self.send(&answer);
        }
    }

    fn send(&self, frame: &[u8]) {
        // A client without an answer repeats its request.
        let _ = rustix::net::send(&self.socket, frame, SendFlags::DONTWAIT);
    }

    /// Returns the time until the next advertisement. `None` if there is none.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Advertises the route again if that is due.
    pub(crate) fn advertise(&mut self) {
        if self.time_left() == Some(Duration::ZERO) {
            self.due = Some(Instant::now() + AGAIN);
            self.send(&self.lease.advertisement());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::id128::Id128;
    use crate::machine::name::Name;
    use crate::network::addresses;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::NONBLOCK, None).unwrap()
    }

    #[test]
    fn answers_to_a_flood_of_requests_are_limited() {
        let plan = addresses::plan(&Name::new("web").unwrap(), Id128::new([1; 16]), &[]).unwrap();
        let (socket, guest) = pair();
        let mut dhcp = DhcpServer::new(Lease::new(&plan, None), socket, Solicited::Nothing);
        assert_eq!(dhcp.time_left(), None, "no advertisement before a solicitation");
        let ip = [&[0x60, 0, 0, 0, 0, 8, 58, 255][..], &[0; 32], &[133, 0, 0, 0, 0, 0, 0, 0]].concat();
        let question = [&[0x33; 6][..], &plan.guest_mac.octets(), &[0x86, 0xdd], &ip].concat();
        let (mut buffer, mut answers) = ([0; LONGEST], 0);
        for _ in 0..3 * MANY {
            rustix::net::send(&guest, &question, SendFlags::DONTWAIT).unwrap();
            dhcp.read();
            while rustix::net::recv(&guest, &mut buffer, RecvFlags::DONTWAIT).is_ok() {
                answers += 1;
            }
        }
        assert_eq!(answers, MANY);
        assert!(dhcp.time_left().is_some_and(|left| left > AGAIN / 2));
        dhcp.advertise();
        assert!(rustix::net::recv(&guest, &mut buffer, RecvFlags::DONTWAIT).is_err(), "it is not time yet");
        // The next act does not know the time of the last advertisement: it advertises at once.
        let (lease, solicited) = (dhcp.lease.clone(), dhcp.solicited());
        let mut next = DhcpServer::new(lease, dhcp.into_socket(), solicited);
        next.advertise();
        assert!(rustix::net::recv(&guest, &mut buffer, RecvFlags::DONTWAIT).is_ok());
        assert!(next.time_left().is_some_and(|left| left > AGAIN / 2));
    }
}
