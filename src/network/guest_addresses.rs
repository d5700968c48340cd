//! The addresses of a machine that configures its interfaces itself: a netlink socket in the machine's
//! network namespace reports changes and lists them. Called by the supervisor. The messages are the kernel's
//! and their content is the guest's: addresses of other machines do not count, and the work is bounded.

use super::addresses;
use super::veth::within;
use crate::error::{Context, Error, Result};
use crate::machine::id128::Id128;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// The maximum number of datagrams read at once.
const MOST: usize = 64;
/// The largest datagram of a list.
const LONGEST: usize = 32 << 10;
/// The sequence number of a list; notifications have 0.
const SEQUENCE: u32 = 1;

/// The first global address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct GuestAddresses {
    /// The IPv4 address.
    pub(crate) ipv4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub(crate) ipv6: Option<Ipv6Addr>,
}

/// Opens a socket in a network namespace that reports changed addresses. It keeps the namespace.
///
/// # Errors
/// Any error of setns(2), socket(2) and bind(2).
pub(crate) fn subscribe(netns: BorrowedFd<'_>) -> Result<OwnedFd> {
    const RTMGRP_IPV4_IFADDR: u32 = 0x10;
    const RTMGRP_IPV6_IFADDR: u32 = 0x100;
    let doing = || "cannot watch the addresses of the machine";
    // Protocol 0 is NETLINK_ROUTE.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let open = || rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None);
    let socket = within(netns, open)?.context(doing)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        .context(doing)?;
    Ok(socket)
}

/// Reads pending notifications.
#[inline(never)]
pub(crate) fn discard(socket: &OwnedFd) {
    let mut buffer = [0; LONGEST];
    for _ in 0..MOST {
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            // The kernel has dropped notifications: the following list is complete.
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(_) => break,
        }
    }
}

/// Lists the addresses of all interfaces in the order of their indices, and returns the first ones.
///
/// # Errors
/// Any error of netlink; too many addresses.
#[inline(never)]
pub(crate) fn list(socket: &OwnedFd, host_id: Id128) -> Result<GuestAddresses> {
    let mut found = GuestAddresses::default();
    visit(socket, &mut |address| found.add(address, host_id))?;
    Ok(found)
}

/// Lists the usable global addresses of all interfaces in a network namespace, at most `count`.
///
/// # Errors
/// Same as [`subscribe`] and [`list`].
pub(crate) fn all(netns: BorrowedFd<'_>, count: usize) -> Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    visit(&subscribe(netns)?, &mut |address| {
        if found.len() < count {
            found.push(address);
        }
    })?;
    Ok(found)
}

/// Calls `visitor` with each usable global address.
fn visit(socket: &OwnedFd, visitor: &mut dyn FnMut(IpAddr)) -> Result<()> {
    let doing = || "cannot list the addresses of the machine";
    let to = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(socket, &request(), SendFlags::empty(), &to).context(doing)?;
    let mut buffer = [0; LONGEST];
    for _ in 0..MOST {
        let length = match rustix::net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, length)) => length,
            Err(Errno::NOBUFS | Errno::INTR) => continue,
            Err(errno) => return Err(errno).context(doing),
        };
        if read(buffer.get(..length).unwrap_or_default(), visitor).context(doing)? {
            return Ok(());
        }
    }
    Err(Error::new("it has too many").context(doing()))
}

/// Returns the request for a list: `struct nlmsghdr` and `struct ifaddrmsg`.
fn request() -> Vec<u8> {
    const FLAGS: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut bytes = 24_u32.to_ne_bytes().to_vec();
    bytes.extend(libc::RTM_GETADDR.to_ne_bytes());
    bytes.extend(FLAGS.to_ne_bytes());
    bytes.extend(SEQUENCE.to_ne_bytes());
    bytes.resize(24, 0);
    bytes
}

/// A native integer at an offset.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl GuestAddresses {
    /// Keeps the first address of each family to which ports can lead.
    fn add(&mut self, address: IpAddr, host_id: Id128) {
        match address {
            _ if !is_own(address, host_id) => {}
            IpAddr::V4(address) => self.ipv4 = self.ipv4.or(Some(address)),
            IpAddr::V6(address) => self.ipv6 = self.ipv6.or(Some(address)),
        }
    }
}

/// Reads the messages of a datagram. Returns whether the list is complete.
fn read(mut datagram: &[u8], visitor: &mut dyn FnMut(IpAddr)) -> std::io::Result<bool> {
    const DONE: u16 = libc::NLMSG_DONE as u16;
    const ERROR: u16 = libc::NLMSG_ERROR as u16;
    while let (Some(length), Some(kind), Some(sequence)) =
        (number(datagram, 0), number(datagram, 4), number(datagram, 8))
    {
        let length = u32::from_ne_bytes(length) as usize;
        let Some(message) = datagram.get(16..length) else { break };
        match u16::from_ne_bytes(kind) {
            _ if u32::from_ne_bytes(sequence) != SEQUENCE => {}
            DONE => return Ok(true),
            ERROR => {
                let code = number(message, 0).map_or(0, i32::from_ne_bytes);
                return Err(std::io::Error::from_raw_os_error(code.saturating_neg()));
            }
            libc::RTM_NEWADDR => usable(message).into_iter().for_each(&mut *visitor),
            _ => {}
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads an address: `struct ifaddrmsg` and attributes. `None` if it is not global or not usable.
fn usable(message: &[u8]) -> Option<IpAddr> {
    /// Secondary, failed, deprecated and tentative (`IFA_F_*`).
    const UNUSABLE: u32 =
        libc::IFA_F_SECONDARY | libc::IFA_F_DADFAILED | libc::IFA_F_DEPRECATED | libc::IFA_F_TENTATIVE;
    let ([family, _, flags, scope], mut rest) = (number(message, 0)?, message.get(8..)?);
    let (mut local, mut address, mut flags) = (None, None, u32::from(flags));
    while let (Some(length), Some(kind)) = (number(rest, 0), number(rest, 2)) {
        let length = usize::from(u16::from_ne_bytes(length));
        let Some(value) = rest.get(4..length) else { break };
        match u16::from_ne_bytes(kind) {
            libc::IFA_LOCAL => local = parse(family, value),
            libc::IFA_ADDRESS => address = parse(family, value),
            libc::IFA_FLAGS => flags = number(value, 0).map_or(flags, u32::from_ne_bytes),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    local.or(address).filter(|_| scope == libc::RT_SCOPE_UNIVERSE && flags & UNUSABLE == 0)
}

fn parse(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => number::<4>(value, 0).map(|octets| Ipv4Addr::from(octets).into()),
        libc::AF_INET6 => number::<16>(value, 0).map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

/// Returns whether ports can lead to an address: it is one of a single node, not one that Coracle assigns to
/// other machines, and not one of the host, whose services may be for other networks.
fn is_own(address: IpAddr, host_id: Id128) -> bool {
    let is_single = match address {
        IpAddr::V4(address) => !address.is_broadcast() && !address.is_link_local(),
        IpAddr::V6(address) => address.to_ipv4_mapped().is_none(),
    };
    is_single
        && !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !addresses::is_in_pool(address, host_id)
        && !is_of_host(address)
}

/// Returns whether this host has an address: then packets to it have it as their source, too.
fn is_of_host(address: IpAddr) -> bool {
    const DISCARD: u16 = 9;
    let unspecified: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((unspecified, 0))
        .and_then(|socket| socket.connect((address, DISCARD)).and_then(|()| socket.local_addr()));
    source.is_ok_and(|source| source.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id128 = Id128::new([9; 16]);

    /// A message of a list.
    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(SEQUENCE.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes
    }

    fn address(text: &str, scope: u8, flags: u32) -> Vec<u8> {
        let (family, octets) = match text.parse().unwrap() {
            IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
            IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
        };
        let mut body = vec![family as u8, 24, 0, scope, 2, 0, 0, 0];
        for (kind, value) in [(libc::IFA_ADDRESS, octets), (libc::IFA_FLAGS, flags.to_ne_bytes().to_vec())] {
            body.extend((4 + value.len() as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
        }
        message(libc::RTM_NEWADDR, &body)
    }

    fn found(messages: &[Vec<u8>]) -> GuestAddresses {
        let mut found = GuestAddresses::default();
        let mut add = |address| found.add(address, ID);
        assert!(!read(&messages.concat(), &mut add).unwrap());
        assert!(read(&message(3, &[0; 4]), &mut add).unwrap());
        found
    }

    #[test]
    fn the_first_global_address_of_each_family_counts() {
        let first = found(&[
            address("127.0.0.1", 254, 0),
            address("fe80::1", 253, 0),
            address("10.177.0.2", 0, 0),
            address("192.168.7.1", 0, libc::IFA_F_TENTATIVE),
            address("192.168.7.2", 0, 0),
            address("192.168.7.3", 0, 0),
            address("2001:db8::2", 0, 0),
        ]);
        assert_eq!(first.ipv4, Some(Ipv4Addr::new(192, 168, 7, 2)));
        assert_eq!(first.ipv6, Some("2001:db8::2".parse().unwrap()));
        assert_eq!(found(&[]), GuestAddresses::default());
    }

    #[test]
    fn addresses_of_others_do_not_count() {
        let own = addresses::plan(&crate::machine::name::Name::new("web").unwrap(), ID, &[]).unwrap();
        let all = ["127.0.0.5", "10.178.1.2", "224.0.0.1", "169.254.1.1", "255.255.255.255", "0.0.0.0"];
        let all = all.into_iter().map(str::to_owned).chain([
            own.ipv6.guest.to_string(),
            "ff02::1".into(),
            "::1".into(),
        ]);
        for text in all {
            assert_eq!(found(&[address(&text, 0, 0)]), GuestAddresses::default(), "{text}");
        }
    }

    #[test]
    fn addresses_of_the_host_are_recognised() {
        assert!(is_of_host(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_of_host(Ipv4Addr::new(192, 0, 2, 1).into()));
        assert!(!is_of_host("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn truncated_messages_are_no_panic() {
        let whole = address("192.0.2.1", 0, 0);
        for length in 0..whole.len() {
            let _ = read(&whole[..length], &mut |_| {});
            let mut claims_more = whole[..length].to_vec();
            if length > 4 {
                claims_more[..4].copy_from_slice(&(length as u32).to_ne_bytes());
            }
            let _ = read(&claims_more, &mut |_| {});
        }
        assert!(read(&message(2, &(-1_i32).to_ne_bytes()), &mut |_| {}).is_err());
    }
}
