//! How a machine is connected.

use super::egress::Destination;
use super::name::Name;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// The drop-in with the host's name servers, read by a guest's systemd-resolved (resolved.conf(5)).
pub const RESOLVED_DROP_IN: &str = "/run/systemd/resolved.conf.d/70-coracle.conf";

/// The network of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The kind of connection.
    pub mode: Mode,
    /// The zone, in that mode.
    pub zone: Option<Zone>,
    /// The bridge of the host, in that mode.
    pub bridge: Option<InterfaceName>,
    /// The network namespace to join, in that mode.
    pub namespace: Option<PathBuf>,
    /// Further interfaces.
    pub further: Vec<Further>,
    /// Whether the host forwards packets from further pairs.
    pub veth_extra_routed: bool,
    /// What becomes of the guest's `/etc/resolv.conf`.
    pub resolv_conf: ResolvConf,
    /// Whether names of its host and zone are put into the guest's `/etc/hosts`.
    pub hosts: HostNames,
    /// Ports of the host that lead to it.
    pub ports: Vec<Port>,
    /// Those of them that start it where it does not run.
    pub on_demand: Vec<Port>,
    /// Whom it may begin to speak to; anybody where nothing is said.
    pub egress: Vec<Destination>,
    /// The most that comes to it, bits in a second.
    pub rate_in: Option<u64>,
    /// The most that it sends, bits in a second.
    pub rate_out: Option<u64>,
    /// The most connections that it begins at a time; [`u64::MAX`] for no limit, a share of the host's table where
    /// nothing is said.
    pub connections_max: Option<u64>,
}

/// The longest name of an interface (netdevice(7), IFNAMSIZ less the terminator).
pub const INTERFACE_NAME_MAX: usize = 15;

/// A zone: machines that share a network, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(String);

impl Zone {
    /// Checks and takes the name of a zone: a label of a host name, so that `NAME.ZONE` is one, and
    /// with `vz-` in front the name of an interface.
    ///
    /// # Errors
    /// Says what it may be.
    pub fn new(name: &str) -> Result<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_label = !name.starts_with('-') && !name.ends_with('-') && name.bytes().all(fits);
        if name.is_empty() || name.len() > INTERFACE_NAME_MAX - 3 || !is_label {
            return Err(Error::new(format!("{name:?} is not the name of a zone"))
                .with_hint("use letters, digits and '-' inside, at most 12 characters"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bridge that joins its machines, systemd-nspawn's.
    pub fn bridge(&self) -> String {
        format!("vz-{}", self.0)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Zone {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(&name)
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.0
    }
}

/// The name of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// Checks and takes the name of an interface, as the kernel does and systemd with it.
    ///
    /// # Errors
    /// Says what it may be.
    pub fn new(name: &str) -> Result<Self> {
        let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        let is_reserved = matches!(name, "." | ".." | "all" | "default");
        if name.len() > INTERFACE_NAME_MAX || !name.bytes().all(fits) || is_number || is_reserved {
            return Err(Error::new(format!("{name:?} is not the name of an interface")).with_hint(
                "ip(8), 'ip link', lists the interfaces of the host; a name has at most 15 characters",
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Two names of an interface: on the host, and inside where it has one of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// On the host.
    pub host: InterfaceName,
    /// Inside.
    pub inside: Option<InterfaceName>,
}

/// What a further interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FurtherKind {
    /// A pair of virtual Ethernet links.
    Veth,
    /// An interface of its own on one of the host's, by its own link-layer address.
    Macvlan,
    /// The same by its IP addresses.
    Ipvlan,
    /// One of the host's interfaces itself, as long as the machine runs.
    Moved,
}

/// A further interface of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Further {
    /// What it is.
    pub kind: FurtherKind,
    /// Its names.
    pub names: Names,
}

/// The unit that listens at ports that start a machine.
pub fn on_demand_unit(name: &Name) -> String {
    format!("coracle-on-demand@{name}.socket")
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
    /// The host's name servers are written to it, where the machine has a link to reach them by, and again as they
    /// change.
    Auto,
    /// It stays as it is.
    Off,
    /// It is taken away.
    Delete,
    /// A file of the host comes to its place, once.
    From(ResolvWay, ResolvFile),
}

/// How a file of the host comes to the place of the guest's `/etc/resolv.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolvWay {
    /// Written to the guest's file; a link is left alone.
    Copy,
    /// In place of whatever is there.
    Replace,
    /// Mounted over the guest's file, read-only; a link is left alone.
    Bind,
}

/// A file of the host for name servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolvFile {
    /// Its own.
    Host,
    /// The one that systemd brings, for resolved's stub.
    Static,
    /// The servers that resolved asks.
    Uplink,
    /// The stub that resolved is.
    Stub,
}

impl ResolvFile {
    /// Where it is.
    pub fn path(self) -> &'static str {
        match self {
            Self::Host => "/etc/resolv.conf",
            Self::Static => "/usr/lib/systemd/resolv.conf",
            Self::Uplink => "/run/systemd/resolve/resolv.conf",
            Self::Stub => "/run/systemd/resolve/stub-resolv.conf",
        }
    }
}

/// What becomes of the guest's `/etc/hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostNames {
    /// Names of its host and zone are kept in it, where the machine has a link.
    Auto,
    /// It stays as it is.
    Off,
}

/// Kinds of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// An own network namespace, joined to the host by a pair of virtual Ethernet links.
    Veth,
    /// The same, to a bridge of machines that see each other, made by the first of them.
    Zone,
    /// The same, to a bridge of the host.
    Bridge,
    /// Further interfaces only, a macvlan first.
    Macvlan,
    /// Further interfaces only, an ipvlan first.
    Ipvlan,
    /// Further interfaces only, one of the host's first.
    Interface,
    /// A network namespace that is there already.
    Namespace,
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
            Self::Zone => "zone",
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Interface => "interface",
            Self::Namespace => "namespace",
            Self::Host => "host",
            Self::None => "none",
        }
    }

    /// Whether the machine has a network namespace of its own.
    pub fn is_private(self) -> bool {
        self != Self::Host
    }

    /// Whether the machine gets a network namespace of its own, made for it.
    pub fn makes_namespace(self) -> bool {
        !matches!(self, Self::Host | Self::Namespace)
    }

    /// Whether its link has addresses from us.
    pub fn has_addresses(self) -> bool {
        matches!(self, Self::Veth | Self::Zone)
    }
}
