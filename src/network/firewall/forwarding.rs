//! Ports forwarded to a machine that configures its addresses itself. The state record contains them. Called
//! by the supervisor and by `part`.

use crate::machine::network::Port;
use crate::network::guest_addresses::GuestAddresses;
use serde::{Deserialize, Serialize};

/// The forwarded ports of a machine without addresses from Coracle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forwarding {
    /// The ports.
    ports: Vec<Port>,
    /// The addresses that they lead to; without one the port is not forwarded.
    targets: GuestAddresses,
}

impl Forwarding {
    /// Creates the forwarding of ports, without addresses. `None` without ports.
    pub(crate) fn new(ports: &[Port]) -> Option<Self> {
        (!ports.is_empty()).then(|| Self { ports: ports.to_vec(), targets: GuestAddresses::default() })
    }

    /// The forwarding to these addresses.
    #[must_use]
    pub(crate) fn with_targets(self, targets: GuestAddresses) -> Self {
        Self { targets, ..self }
    }

    /// The ports.
    pub(crate) fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The addresses that they lead to.
    pub(crate) fn targets(&self) -> GuestAddresses {
        self.targets
    }

    /// Whether the tables contain it.
    pub(super) fn is_active(&self) -> bool {
        self.targets != GuestAddresses::default()
    }
}
