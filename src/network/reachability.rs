//! Reachability probes: one packet from a machine's network namespace, as a program inside would send it, and
//! its reply. Called by `doctor`. It changes nothing.

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

/// A DNS query for the name servers of the root zone: each name server replies to it.
const QUERY: [u8; 17] = [0x6b, 0x6e, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// The target of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProbeTarget {
    /// Its address and port.
    pub(crate) address: SocketAddr,
    /// TCP: a connection attempt. UDP: a DNS query.
    pub(crate) protocol: Protocol,
}

/// A socket inside the machine, before the probe is sent.
#[derive(Debug)]
pub(crate) struct Probe {
    socket: OwnedFd,
    target: ProbeTarget,
    /// Its local port.
    pub(crate) port: u16,
}

/// The result of sending a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The packet is sent.
    Sent,
    /// The machine has no route to the target.
    NoRoute,
}

impl Probe {
    /// Creates a socket in the network namespace of the process `leader`.
    ///
    /// # Errors
    /// The process does not exist, or the kernel does not support the address family.
    pub(crate) fn new(leader: u32, target: ProbeTarget) -> Result<Self> {
        let doing = || "cannot create a socket in the machine's network namespace";
        let namespace = File::open(format!("/proc/{leader}/ns/net")).context(doing)?;
        let socket = veth::within(namespace.as_fd(), || bind_socket(target))?.context(doing)?;
        let own = rustix::net::getsockname(&socket).context(doing)?;
        let own = SocketAddr::try_from(own).context(doing)?;
        Ok(Self { socket, target, port: own.port() })
    }

    /// Sends the probe.
    ///
    /// # Errors
    /// Any error of connect(2) or send(2), except for a missing route.
    pub(crate) fn send(&self) -> Result<Attempt> {
        let sent = rustix::net::connect(&self.socket, &self.target.address).and_then(|()| {
            match self.target.protocol {
                Protocol::Udp => {
                    rustix::net::send(&self.socket, &QUERY, rustix::net::SendFlags::empty()).map(|_| ())
                }
                Protocol::Tcp => Ok(()),
            }
        });
        match sent {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(Attempt::Sent),
            Err(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ADDRNOTAVAIL) => Ok(Attempt::NoRoute),
            Err(errno) => Err(errno).context(|| format!("cannot send to {}", self.target.address)),
        }
    }

    /// Returns whether the target replies, a refused connection included.
    pub(crate) fn is_answered(&self, timeout: Duration) -> bool {
        let Ok(left) = Timespec::try_from(timeout) else { return false };
        let wanted = if self.target.protocol == Protocol::Tcp { PollFlags::OUT } else { PollFlags::IN };
        if poll(&mut [PollFd::new(&self.socket, wanted)], Some(&left)) != Ok(1) {
            return false;
        }
        let reply = match self.target.protocol {
            Protocol::Tcp => rustix::net::sockopt::socket_error(&self.socket).and_then(|error| error),
            Protocol::Udp => {
                rustix::net::recv(&self.socket, &mut [0_u8; 512][..], RecvFlags::DONTWAIT).map(|_| ())
            }
        };
        // The target host is reachable, its port is closed.
        matches!(reply, Ok(()) | Err(Errno::CONNREFUSED))
    }
}

/// Creates a socket with a local port.
fn bind_socket(target: ProbeTarget) -> rustix::io::Result<OwnedFd> {
    let (family, any): (_, IpAddr) = match target.address {
        SocketAddr::V4(_) => (AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let kind = if target.protocol == Protocol::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(any, 0))?;
    Ok(socket)
}

/// Returns the gateways of the host's default routes, one of each family.
pub(crate) fn gateways() -> Vec<IpAddr> {
    let read = |name: &str| std::fs::read_to_string(Path::new("/proc/net").join(name)).unwrap_or_default();
    let ipv4 = read("route").lines().skip(1).find_map(gateway_4).map(IpAddr::V4);
    let ipv6 = read("ipv6_route").lines().find_map(gateway_6).map(IpAddr::V6);
    ipv4.into_iter().chain(ipv6).collect()
}

/// Parses a line of `/proc/net/route`: interface, destination, gateway, flags, …, the mask eighth; words in
/// host byte order.
fn gateway_4(line: &str) -> Option<Ipv4Addr> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let word = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
    let is_default = word(1)? == 0 && word(7)? == 0 && word(2)? != 0;
    is_default.then(|| word(2).map(|word| Ipv4Addr::from(word.to_ne_bytes())))?
}

/// Parses a line of `/proc/net/ipv6_route`: destination, its length, source, its length, next hop.
fn gateway_6(line: &str) -> Option<Ipv6Addr> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let hop = Ipv6Addr::from_bits(u128::from_str_radix(fields.get(4)?, 16).ok()?);
    // A link-local gateway of the host is not reachable from a machine.
    let is_usable = !hop.is_unspecified() && !hop.is_unicast_link_local();
    (*fields.get(1)? == "00" && is_usable).then_some(hop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_parsed_from_procfs() {
        let line = "up0\t00000000\t020200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        assert_eq!(gateway_4(line), Some(Ipv4Addr::new(192, 0, 2, 2)));
        assert_eq!(gateway_4("up0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"), None);
        let zeros = "0".repeat(32);
        let line = format!("{zeros} 00 {zeros} 00 20010db8000000000000000000000002 00000400 1 0 3 up0");
        assert_eq!(gateway_6(&line), Some("2001:db8::2".parse().unwrap()));
        for invalid in ["", "x", "a b c d e f g h"] {
            assert_eq!((gateway_4(invalid), gateway_6(invalid)), (None, None));
        }
    }
}
