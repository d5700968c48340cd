//! How a machine is connected.

/// The network of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The kind of connection.
    pub mode: Mode,
    /// What becomes of the guest's `/etc/resolv.conf`.
    pub resolv_conf: ResolvConf,
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
