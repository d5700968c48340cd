//! How a machine is connected.

use super::egress::Destination;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// The network of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The kind of connection.
    pub mode: Mode,
    /// What becomes of the guest's `/etc/resolv.conf`.
    pub resolv_conf: ResolvConf,
    /// Ports of the host that lead to it.
    pub ports: Vec<Port>,
    /// Whom it may begin to speak to; anybody where nothing is said.
    pub egress: Vec<Destination>,
    /// The most that comes to it, bits in a second.
    pub rate_in: Option<u64>,
    /// The most that it sends, bits in a second.
    pub rate_out: Option<u64>,
}

/// The most ports one machine has forwarded.
pub const MOST_PORTS: usize = 1024;

/// A port of the host, or a range of them, that leads to a port of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The address of the host; any of both families where there is none.
    pub address: Option<IpAddr>,
    /// What is forwarded.
    pub protocol: Protocol,
    /// The first port of the host.
    pub host: u16,
    /// The last port of the host.
    pub last: u16,
    /// The machine's port for the first; those that follow go to those that follow.
    pub guest: u16,
}

/// What is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Port {
    /// How many ports it is.
    pub fn count(&self) -> usize {
        usize::from(self.last - self.host) + 1
    }

    /// Whether both take a port of one address.
    pub fn overlaps(&self, other: &Self) -> bool {
        let addresses = match (self.address, other.address) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        addresses && self.protocol == other.protocol && self.host <= other.last && other.host <= self.last
    }
}

/// As it is written in a definition.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(address) => write!(f, "{address}:")?,
            None => {}
        }
        let more = self.last - self.host;
        if more == 0 {
            write!(f, "{}:{}", self.host, self.guest)?;
        } else {
            let last = u32::from(self.guest) + u32::from(more);
            write!(f, "{}-{}:{}-{last}", self.host, self.last, self.guest)?;
        }
        if self.protocol == Protocol::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

/// What becomes of the guest's `/etc/resolv.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolvConf {
    /// The host's name servers are written to it, where the machine has a link to reach them by.
    Auto,
    /// It stays as it is.
    Off,
}

/// Kinds of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// An own network namespace, joined to the host by a pair of virtual Ethernet links.
    Veth,
    /// The host's own network namespace.
    Host,
    /// An own network namespace with a loopback interface only.
    None,
}

impl Mode {
    /// The word used in definitions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Host => "host",
            Self::None => "none",
        }
    }

    /// Whether the machine has a network namespace of its own.
    pub fn is_private(self) -> bool {
        self != Self::Host
    }
}
