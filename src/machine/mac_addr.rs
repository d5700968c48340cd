//! Link-layer addresses of Ethernet interfaces.

use serde::{Deserialize, Serialize};

/// A link-layer address of 48 bits. Serialised as its six octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// Creates a locally administered unicast address, of octets with other bits.
    pub(crate) fn local(mut octets: [u8; 6]) -> Self {
        octets[0] = octets[0] & 0xfe | 0x02;
        Self(octets)
    }

    /// Returns the octets, in the order of transmission.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Returns the IPv6 interface identifier (RFC 4291, modified EUI-64).
    pub(crate) fn interface_id(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}
