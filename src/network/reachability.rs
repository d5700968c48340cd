//! One packet from a machine's own network namespace, as a program inside would send it, and whether
//! anybody answers. Called by `doctor`. It changes nothing.

use super::veth;
use crate::error::{Context, Result};
use crate::machine::network::Protocol;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// A question of a resolver for the root's name servers: every one answers something.
const QUESTION: [u8; 17] = [0x6b, 0x6e, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// Somebody to knock at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Door {
    /// Where.
    pub address: SocketAddr,
    /// How: a connection, or a question of a name server.
    pub protocol: Protocol,
}

/// A socket inside, that has not knocked yet.
#[derive(Debug)]
pub struct Knock {
    socket: OwnedFd,
    door: Door,
    /// Its own port.
    pub port: u16,
}

/// What came of knocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The packet is on its way.
    Away,
    /// The machine does not know the way.
    NoRoute,
}

impl Knock {
    /// Makes ready to knock, in the network namespace of this process.
    ///
    /// # Errors
    /// A process that is gone, or a kernel without the family.
    pub fn new(leader: u32, door: Door) -> Result<Self> {
        let doing = || "cannot make a socket in the machine's network namespace";
        let namespace = File::open(format!("/proc/{leader}/ns/net")).context(doing)?;
        let socket = veth::within(namespace.as_fd(), || ready(door))?.context(doing)?;
        let own = rustix::net::getsockname(&socket).context(doing)?;
        let own = SocketAddr::try_from(own).context(doing)?;
        Ok(Self { socket, door, port: own.port() })
    }

    /// Knocks.
    ///
    /// # Errors
    /// What the kernel says, where it is no matter of routes.
    pub fn send(&self) -> Result<Sent> {
        let sent =
            rustix::net::connect(&self.socket, &self.door.address).and_then(|()| match self.door.protocol {
                Protocol::Udp => {
                    rustix::net::send(&self.socket, &QUESTION, rustix::net::SendFlags::empty()).map(|_| ())
                }
                Protocol::Tcp => Ok(()),
            });
        match sent {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(Sent::Away),
            Err(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ADDRNOTAVAIL) => Ok(Sent::NoRoute),
            Err(errno) => Err(errno).context(|| format!("cannot send to {}", self.door.address)),
        }
    }

    /// Whether anybody answers, be it with a refusal.
    pub fn is_answered(&self, patience: Duration) -> bool {
        let Ok(left) = Timespec::try_from(patience) else { return false };
        let wanted = if self.door.protocol == Protocol::Tcp { PollFlags::OUT } else { PollFlags::IN };
        if poll(&mut [PollFd::new(&self.socket, wanted)], Some(&left)) != Ok(1) {
            return false;
        }
        let heard = match self.door.protocol {
            Protocol::Tcp => rustix::net::sockopt::socket_error(&self.socket).and_then(|error| error),
            Protocol::Udp => {
                rustix::net::recv(&self.socket, &mut [0_u8; 512][..], RecvFlags::DONTWAIT).map(|_| ())
            }
        };
        // Somebody is there, and has no such door.
        matches!(heard, Ok(()) | Err(Errno::CONNREFUSED))
    }
}

/// A socket with a port of its own.
fn ready(door: Door) -> rustix::io::Result<OwnedFd> {
    let (family, any): (_, IpAddr) = match door.address {
        SocketAddr::V4(_) => (AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let kind = if door.protocol == Protocol::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(any, 0))?;
    Ok(socket)
}

/// The host's own way out: its gateways, one of each family.
pub fn gateways() -> Vec<IpAddr> {
    let read = |name: &str| std::fs::read_to_string(Path::new("/proc/net").join(name)).unwrap_or_default();
    let ipv4 = read("route").lines().skip(1).find_map(gateway_4).map(IpAddr::V4);
    let ipv6 = read("ipv6_route").lines().find_map(gateway_6).map(IpAddr::V6);
    ipv4.into_iter().chain(ipv6).collect()
}

/// A line of `/proc/net/route`: interface, destination, gateway, flags, …, the mask eighth; words in
/// the order of this machine's bytes.
fn gateway_4(line: &str) -> Option<Ipv4Addr> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let word = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
    let is_default = word(1)? == 0 && word(7)? == 0 && word(2)? != 0;
    is_default.then(|| word(2).map(|word| Ipv4Addr::from(word.to_ne_bytes())))?
}

/// A line of `/proc/net/ipv6_route`: destination, its length, source, its length, next hop.
fn gateway_6(line: &str) -> Option<Ipv6Addr> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let hop = Ipv6Addr::from_bits(u128::from_str_radix(fields.get(4)?, 16).ok()?);
    // One that is link-local is nobody to a machine.
    let is_usable = !hop.is_unspecified() && !hop.is_unicast_link_local();
    (*fields.get(1)? == "00" && is_usable).then_some(hop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_read_off_the_kernels_tables() {
        let line = "up0\t00000000\t020200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        assert_eq!(gateway_4(line), Some(Ipv4Addr::new(192, 0, 2, 2)));
        assert_eq!(gateway_4("up0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"), None);
        let zeros = "0".repeat(32);
        let line = format!("{zeros} 00 {zeros} 00 20010db8000000000000000000000002 00000400 1 0 3 up0");
        assert_eq!(gateway_6(&line), Some("2001:db8::2".parse().unwrap()));
        for rubbish in ["", "x", "a b c d e f g h"] {
            assert_eq!((gateway_4(rubbish), gateway_6(rubbish)), (None, None));
        }
    }
}
