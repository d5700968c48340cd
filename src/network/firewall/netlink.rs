//! nftables over netlink: messages, expressions, sets and the socket. Used by the other files of the
//! firewall. It knows no rule.

pub(super) mod element;
pub(super) mod expression;
pub(super) mod nfta;
pub(super) mod nlmsg;
pub(super) mod table;

pub(crate) use nlmsg::TABLE;

use nlmsg::{Batch, NetlinkMessage};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::cell::OnceCell;

/// Opens a netlink socket that receives the notifications of these groups (a bit for each).
///
/// # Errors
/// Any error of socket(2) or bind(2).
pub(crate) fn open(groups: u32) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
    if groups != 0 {
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    }
    Ok(socket)
}

/// A socket for several requests. While the kernel frees objects of a transaction, which takes a grace period
/// of RCU, close(2) of any netfilter socket waits for it: one socket for all requests waits once, at its end.
#[derive(Debug)]
pub struct Nfnetlink(OnceCell<Result<OwnedFd>>);

impl Nfnetlink {
    /// Returns a socket that the first request opens: closing one waits for a grace period of RCU. A failure is
    /// returned by each request.
    pub fn open() -> Self {
        Self(OnceCell::new())
    }

    fn socket(&self) -> Result<&OwnedFd> {
        self.0.get_or_init(|| open(0)).as_ref().map_err(|errno| *errno)
    }

    /// Commits a transaction.
    ///
    /// # Errors
    /// The first error of the transaction: then the kernel has changed nothing.
    pub(crate) fn commit(&self, batch: Batch) -> Result<()> {
        self.send(&batch.finish())
    }

    /// Sends messages and returns the first error of the kernel.
    ///
    /// # Errors
    /// Any error of the kernel.
    pub(crate) fn send(&self, messages: &[u8]) -> Result<()> {
        send_by(self.socket()?, messages)
    }

    /// Sends a dump request and passes each reply to `take`.
    ///
    /// # Errors
    /// Any error of the kernel.
    pub(crate) fn dump(&self, request: &[u8], take: impl FnMut(&NetlinkMessage<'_>)) -> Result<()> {
        dump_by(self.socket()?, request, take)
    }
}

/// Commits a transaction.
///
/// # Errors
/// The first error of the transaction: then the kernel has changed nothing.
pub(crate) fn commit(batch: Batch) -> Result<()> {
    Nfnetlink::open().commit(batch)
}

/// Sends messages and returns the first error of the kernel.
///
/// # Errors
/// Any error of the kernel.
pub(crate) fn send(messages: &[u8]) -> Result<()> {
    Nfnetlink::open().send(messages)
}

/// Sends messages by this socket. The kernel has replied when sendto(2) returns.
///
/// # Errors
/// Any error of the kernel.
pub(crate) fn send_by(socket: impl AsFd, messages: &[u8]) -> Result<()> {
    rustix::net::sendto(&socket, messages, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = vec![0; 16384];
    let mut result = Ok(());
    // All replies are read: the socket may be used again.
    loop {
        match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, length)) => {
                let replies = buffer.get(..length).unwrap_or_default();
                let error = nlmsg::first_error(replies).map(Errno::from_raw_os_error);
                result = result.and(error.map_or(Ok(()), Err));
            }
            Err(Errno::AGAIN) => return result,
            Err(errno) => return result.and(Err(errno)),
        }
    }
}

/// Sends a dump request and passes each reply to `take`.
///
/// # Errors
/// Any error of the kernel.
pub(crate) fn dump(request: &[u8], take: impl FnMut(&NetlinkMessage<'_>)) -> Result<()> {
    Nfnetlink::open().dump(request, take)
}

/// Sends a dump request by this socket.
fn dump_by(socket: &OwnedFd, request: &[u8], mut take: impl FnMut(&NetlinkMessage<'_>)) -> Result<()> {
    rustix::net::sendto(socket, request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = vec![0; 32768];
    loop {
        // The kernel has the next part ready: this does not block.
        let (_, length) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let replies = buffer.get(..length).unwrap_or_default();
        if let Some(code) = nlmsg::first_error(replies) {
            return Err(Errno::from_raw_os_error(code));
        }
        for message in nlmsg::messages(replies) {
            if message.is_end() {
                return Ok(());
            }
            take(&message);
        }
        if length == 0 {
            return Ok(());
        }
    }
}

/// Turns the errors of a deletion into success if the object does not exist, also on a kernel without
/// nftables.
///
/// # Errors
/// Any other error.
pub(crate) fn ignore_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT) => Ok(()),
        other => other,
    }
}
