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

    /// Parses the address of a single interface: octets with ':' or '-' between them, or pairs of octets with
    /// '.'. `None` if it is invalid.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (separator, digits) = match text.chars().find(|one| !one.is_ascii_hexdigit())? {
            separator @ (':' | '-') => (separator, 2),
            '.' => ('.', 4),
            _ => return None,
        };
        let mut octets = Vec::new();
        for part in text.split(separator) {
            let is_number =
                (1..=digits).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = u16::from_str_radix(part, 16).ok().filter(|_| is_number)?;
            let [high, low] = number.to_be_bytes();
            octets.extend((digits == 4).then_some(high).into_iter().chain([low]));
        }
        let octets: [u8; 6] = octets.try_into().ok()?;
        let is_group = octets[0] & 1 == 1;
        (!is_group && octets != [0; 6]).then_some(Self(octets))
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
