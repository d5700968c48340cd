//! Destinations to which a machine may open connections. Used by the rules of a machine and by
//! `network::firewall`, which enforces them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An item of `network.egress`; several items are a union.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// All destinations.
    Any,
    /// No destination beside the other items.
    None,
    /// The machines of the zone.
    Zone,
    /// The addresses of a network.
    Network(Prefix),
}

/// An address prefix: all addresses with the same first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Prefix {
    first: IpAddr,
    length: u8,
}

impl Prefix {
    /// Returns the prefix with the first `length` bits of `address`; `None` if the address is shorter.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        (length <= width).then(|| Self { first: masked(address, length), length })
    }

    /// Returns the lowest address.
    pub(crate) fn first(&self) -> IpAddr {
        self.first
    }

    /// Returns the highest address.
    pub(crate) fn last(&self) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => {
                let rest = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
                Ipv4Addr::from_bits(first.to_bits() | rest).into()
            }
            IpAddr::V6(first) => {
                let rest = u128::MAX.checked_shr(self.length.into()).unwrap_or(0);
                Ipv6Addr::from_bits(first.to_bits() | rest).into()
            }
        }
    }

    /// Returns whether it contains all addresses of `other`.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4()
            && self.length <= other.length
            && masked(other.first, self.length) == self.first
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let rest = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & !rest).into()
        }
        IpAddr::V6(address) => {
            let rest = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & !rest).into()
        }
    }
}

/// Formats the prefix as in a definition.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

/// Returns the allowed prefixes without overlaps; `None` if all destinations are allowed.
pub(crate) fn allowed(items: &[Destination]) -> Option<Vec<Prefix>> {
    if items.is_empty() || items.contains(&Destination::Any) {
        return None;
    }
    let mut prefixes: Vec<Prefix> = items
        .iter()
        .filter_map(|one| match one {
            Destination::Network(prefix) => Some(*prefix),
            _ => None,
        })
        .collect();
    // The shortest prefixes come first, so that later ones inside them are skipped.
    prefixes.sort_by_key(|prefix| (prefix.length, prefix.first));
    let mut kept: Vec<Prefix> = Vec::new();
    for prefix in prefixes {
        if !kept.iter().any(|wider| wider.covers(&prefix)) {
            kept.push(prefix);
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Destination {
        let (address, length) = text.split_once('/').unwrap();
        Destination::Network(Prefix::new(address.parse().unwrap(), length.parse().unwrap()).unwrap())
    }

    #[test]
    fn prefixes_are_a_union_without_overlaps() {
        assert_eq!(allowed(&[]), None);
        assert_eq!(allowed(&[Destination::None, Destination::Any]), None);
        assert_eq!(allowed(&[Destination::None]), Some(Vec::new()));
        let items = ["10.1.0.0/16", "fd00::/8", "10.0.0.7/8", "0.0.0.0/32", "fd00::1/128", "10.0.0.0/8"];
        let kept = allowed(&items.map(network)).unwrap();
        let shown: Vec<String> = kept.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "fd00::/8", "0.0.0.0/32"]);
        assert_eq!(kept[0].last().to_string(), "10.255.255.255");
        let all = Prefix::new("::".parse().unwrap(), 0).unwrap();
        assert_eq!(all.last().to_string(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert!(Prefix::new("1.2.3.4".parse().unwrap(), 33).is_none());
    }
}
