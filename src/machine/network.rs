//! The network of a machine.

use super::egress::Destination;
use super::mac_addr::MacAddr;
use super::static_address::StaticAddress;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// The drop-in with the name servers of the host for systemd-resolved in the guest (resolved.conf(5)).
pub(crate) const RESOLVED_DROP_IN: &str = "/run/systemd/resolved.conf.d/70-coracle.conf";

/// The network of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The kind of connection.
    pub mode: Mode,
    /// The configuration of its links.
    pub addresses: Addresses,
    /// The static addresses of its link, or of its first interface of the mode.
    pub address: Vec<StaticAddress>,
    /// The routers of their networks, at most one of each family.
    pub gateway: Vec<IpAddr>,
    /// The link-layer address of its end of the link; `None` for a computed one.
    pub(crate) mac: Option<MacAddr>,
    /// The zone, in mode `zone`.
    pub(crate) zone: Option<Zone>,
    /// The bridge of the host, in mode `bridge`.
    pub(crate) bridge: Option<InterfaceName>,
    /// The network namespace to join, in mode `namespace`.
    pub(crate) namespace: Option<PathBuf>,
    /// Further interfaces.
    pub(crate) interfaces: Vec<Interface>,
    /// Whether the host forwards packets from additional veth pairs.
    pub(crate) veth_extra_routed: bool,
    /// The handling of the guest's `/etc/resolv.conf`.
    pub(crate) resolv_conf: ResolvConf,
    /// Whether the names of its host and zone are added to the guest's `/etc/hosts`.
    pub(crate) hosts: HostsMode,
    /// Ports of the host that are forwarded to it.
    pub(crate) ports: Vec<Port>,
    /// Those of `ports` that start the machine if it is not running.
    pub(crate) on_demand: Vec<Port>,
    /// Destinations to which it may open connections; all if empty.
    pub(crate) egress: Vec<Destination>,
    /// The maximum rate of packets to it, bits per second.
    pub(crate) rate_in: Option<u64>,
    /// The maximum rate of packets from it, bits per second.
    pub(crate) rate_out: Option<u64>,
    /// The maximum number of simultaneous connections that it opens; [`u64::MAX`] for no limit, `None` for a
    /// share of the host's table.
    pub(crate) connections_max: Option<u64>,
}

impl Network {
    /// Returns whether the machine has a link to its host with addresses from Coracle.
    pub(crate) fn has_link(&self) -> bool {
        self.mode.has_link() && self.addresses == Addresses::Auto
    }

    /// Returns whether the machine has interfaces that Coracle creates and leaves as they are.
    pub(crate) fn has_plain_link(&self) -> bool {
        self.mode.has_link() && self.addresses == Addresses::None
    }
}

/// The configuration of a machine's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// Links have the state up. The link to the host has addresses on both ends, and the firewall pins them.
    Auto,
    /// Links have no addresses and the state down, except ports of bridges, as by systemd-nspawn(1).
    None,
}

/// The maximum length of an interface name (netdevice(7), IFNAMSIZ without the terminator).
pub(crate) const INTERFACE_NAME_MAX: usize = 15;

/// The name of a zone, a group of machines with a common network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(String);

impl Zone {
    /// Creates the name of a zone: a label of a host name, so that `NAME.ZONE` is a host name, and short
    /// enough for an interface name with the prefix `vz-`.
    ///
    /// # Errors
    /// The name is invalid.
    pub fn new(name: &str) -> Result<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_label = !name.starts_with('-') && !name.ends_with('-') && name.bytes().all(fits);
        if name.is_empty() || name.len() > INTERFACE_NAME_MAX - 3 || !is_label {
            return Err(Error::new(format!("{name:?} is not the name of a zone"))
                .with_hint("use letters, digits and '-' inside, at most 12 characters"));
        }
        Ok(Self(name.to_owned()))
    }

    /// Returns the name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of its bridge, as in systemd-nspawn(1).
    pub(crate) fn bridge(&self) -> String {
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
    /// Creates the name of an interface, by the rules of the kernel and of systemd.
    ///
    /// # Errors
    /// The name is invalid.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        let is_reserved = matches!(name, "." | ".." | "all" | "default");
        if name.len() > INTERFACE_NAME_MAX || !name.bytes().all(fits) || is_number || is_reserved {
            return Err(Error::new(format!("{name:?} is not the name of an interface")).with_hint(
                "list the interfaces of the host with 'ip link'; a name has at most 15 characters",
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// Returns the name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names of an interface, on the host and inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceNames {
    /// The name on the host.
    pub(crate) host: InterfaceName,
    /// The name inside; `None` for the default.
    pub(crate) inside: Option<InterfaceName>,
}

/// The kind of a further interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InterfaceKind {
    /// A veth pair.
    Veth,
    /// A macvlan on an interface of the host, with a link-layer address of its own.
    Macvlan,
    /// An ipvlan on an interface of the host, distinguished by IP addresses.
    Ipvlan,
    /// An interface of the host, moved into the machine while it runs.
    Moved,
}

/// An interface of a machine beside its link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its kind.
    pub(crate) kind: InterfaceKind,
    /// Its names.
    pub(crate) names: InterfaceNames,
}

/// The maximum number of forwarded ports of a machine.
pub(crate) const MAX_PORTS: usize = 1024;

/// A forwarded port of the host, or a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The address of the host; `None` for all addresses of both families.
    pub(crate) address: Option<IpAddr>,
    /// Its protocol.
    pub(crate) protocol: Protocol,
    /// The first port of the host.
    pub(crate) host: u16,
    /// The last port of the host.
    pub(crate) last: u16,
    /// The port of the machine for the first one; further ports follow in order.
    pub(crate) guest: u16,
}

/// The protocol of a forwarded port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Returns its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Port {
    /// Returns the number of ports.
    pub(crate) fn count(&self) -> usize {
        usize::from(self.last - self.host) + 1
    }

    /// Returns whether both have a port of the host in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let addresses = match (self.address, other.address) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        addresses && self.protocol == other.protocol && self.host <= other.last && other.host <= self.last
    }
}

/// Formats the port as in a definition.
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

/// The handling of the guest's `/etc/resolv.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolvConf {
    /// The name servers of the host are written to it and updated, if the machine has a link to reach them.
    Auto,
    /// It is not changed.
    Off,
    /// It is deleted.
    Delete,
    /// It is replaced by a file of the host once.
    From(ResolvMethod, ResolvFile),
}

/// The method to provide a file of the host as the guest's `/etc/resolv.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolvMethod {
    /// Written to the guest's file, unless it is a symbolic link.
    Copy,
    /// Written in place of an existing node of any type.
    Replace,
    /// Mounted read-only on the guest's file, unless it is a symbolic link.
    Bind,
}

/// A resolv.conf(5) of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolvFile {
    /// The file in `/etc`.
    Host,
    /// The static file of systemd with the stub resolver of systemd-resolved.
    Static,
    /// The upstream servers of systemd-resolved.
    Uplink,
    /// The stub resolver of systemd-resolved, with search domains.
    Stub,
}

impl ResolvFile {
    /// Returns its path.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Host => "/etc/resolv.conf",
            Self::Static => "/usr/lib/systemd/resolv.conf",
            Self::Uplink => "/run/systemd/resolve/resolv.conf",
            Self::Stub => "/run/systemd/resolve/stub-resolv.conf",
        }
    }
}

/// The handling of the guest's `/etc/hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostsMode {
    /// The names of its host and zone are added and updated, if the machine has a link.
    Auto,
    /// It is not changed.
    Off,
}

/// The kind of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A network namespace with a veth pair to the host.
    Veth,
    /// A network namespace with a veth pair to the bridge of a zone, which the first machine of the zone
    /// creates.
    Zone,
    /// A network namespace with a veth pair to a bridge of the host.
    Bridge,
    /// A network namespace without a link; its first interface is a macvlan.
    Macvlan,
    /// A network namespace without a link; its first interface is an ipvlan.
    Ipvlan,
    /// A network namespace without a link; its first interface is one of the host.
    Interface,
    /// An existing network namespace.
    Namespace,
    /// The network namespace of the host.
    Host,
    /// A network namespace with a loopback interface only.
    None,
}

impl Mode {
    /// Returns the word for definitions.
    pub(crate) fn as_str(self) -> &'static str {
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

    /// Returns whether the machine has a network namespace other than that of the host.
    pub(crate) fn is_private(self) -> bool {
        self != Self::Host
    }

    /// Returns whether a network namespace is created for the machine.
    pub(crate) fn makes_namespace(self) -> bool {
        !matches!(self, Self::Host | Self::Namespace)
    }

    /// Returns whether the machine has a link to its host, or to a zone that the host may have addresses in.
    pub(crate) fn has_link(self) -> bool {
        matches!(self, Self::Veth | Self::Zone)
    }
}
