//! Whom a machine may begin to speak to. Called by the rules of a machine and by what enforces it;
//! it knows no firewall.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One thing that may be said of it; several are a union.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Anybody.
    Any,
    /// Nobody beside what else is said.
    None,
    /// The machines of its zone.
    Zone,
    /// Addresses.
    Network(Range),
}

/// All addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Range {
    first: IpAddr,
    length: u8,
}

impl Range {
    /// The addresses whose first `length` bits are those of `address`, where there are so many.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        (length <= width).then(|| Self { first: masked(address, length), length })
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
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

    /// Whether all of `other` is in it.
    pub fn covers(&self, other: &Self) -> bool {
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

/// As it is written in a definition.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

/// The addresses that may be spoken to, none in another; nothing where all may be.
pub fn allowed(said: &[Destination]) -> Option<Vec<Range>> {
    if said.is_empty() || said.contains(&Destination::Any) {
        return None;
    }
    let mut ranges: Vec<Range> = said
        .iter()
        .filter_map(|one| match one {
            Destination::Network(range) => Some(*range),
            _ => None,
        })
        .collect();
    // The widest first: what is in it adds nothing.
    ranges.sort_by_key(|range| (range.length, range.first));
    let mut kept: Vec<Range> = Vec::new();
    for range in ranges {
        if !kept.iter().any(|wider| wider.covers(&range)) {
            kept.push(range);
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Destination {
        let (address, length) = text.split_once('/').unwrap();
        Destination::Network(Range::new(address.parse().unwrap(), length.parse().unwrap()).unwrap())
    }

    #[test]
    fn ranges_are_a_union_without_overlaps() {
        assert_eq!(allowed(&[]), None);
        assert_eq!(allowed(&[Destination::None, Destination::Any]), None);
        assert_eq!(allowed(&[Destination::None]), Some(Vec::new()));
        let said = ["10.1.0.0/16", "fd00::/8", "10.0.0.7/8", "0.0.0.0/32", "fd00::1/128", "10.0.0.0/8"];
        let kept = allowed(&said.map(network)).unwrap();
        let shown: Vec<String> = kept.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "fd00::/8", "0.0.0.0/32"]);
        assert_eq!(kept[0].last().to_string(), "10.255.255.255");
        let all = Range::new("::".parse().unwrap(), 0).unwrap();
        assert_eq!(all.last().to_string(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert!(Range::new("1.2.3.4".parse().unwrap(), 33).is_none());
    }
}
