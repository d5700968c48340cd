//! Static addresses of a machine's interface: `network.address` and `network.gateway`.

use super::network::{Addresses, Mode, Network};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The maximum number of addresses.
const MOST: usize = 16;
/// The length of IPv6 prefixes of links to the host: that of router advertisements (RFC 4862).
const IPV6_LENGTH: u8 = 64;
/// The greatest length of an IPv4 prefix of such a link: it also has an address of the host.
const LONGEST_IPV4: u8 = 30;

/// An address of a machine and the length of its prefix, at most the width of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StaticAddress {
    /// The address.
    pub(crate) address: IpAddr,
    /// Length of its prefix, bits.
    pub(crate) length: u8,
}

impl StaticAddress {
    /// Returns whether an address is in the network of this one.
    pub(crate) fn contains(&self, other: IpAddr) -> bool {
        match (self.network(), (Self { address: other, ..*self }).network()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => own == other,
            (IpAddr::V6(own), IpAddr::V6(other)) => own == other,
            _ => false,
        }
    }

    /// Returns the first address of its network.
    pub(crate) fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(own) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                Ipv4Addr::from_bits(own.to_bits() & mask).into()
            }
            IpAddr::V6(own) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                Ipv6Addr::from_bits(own.to_bits() & mask).into()
            }
        }
    }

    /// Returns the address of the network with this number.
    fn numbered(&self, number: u8) -> IpAddr {
        match self.network() {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits().wrapping_add(number.into())).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().wrapping_add(number.into())).into(),
        }
    }

    /// Returns the address of the host for a link without a defined gateway: the first one, or the second
    /// one if the machine has the first.
    pub(crate) fn default_host(&self) -> IpAddr {
        let first = self.numbered(1);
        if first == self.address { self.numbered(2) } else { first }
    }

    /// Returns whether a node can have the address: it is neither of all nodes nor of the network.
    fn is_usable(&self) -> bool {
        let address = self.address;
        let is_single = !(address.is_unspecified() || address.is_loopback() || address.is_multicast());
        let is_end = match address {
            IpAddr::V4(own) if self.length < 31 => {
                own.to_bits().trailing_ones() >= 32 - u32::from(self.length)
                    || IpAddr::V4(own) == self.network()
            }
            IpAddr::V6(_) if self.length < 127 => address == self.network(),
            _ => false,
        };
        is_single && !is_end
    }
}

impl fmt::Display for StaticAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for StaticAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::new(format!("'{text}' is not an address with the length of its prefix"))
                .with_hint("write, for example, \"192.168.50.7/24\" or \"fd00::7/64\"")
        };
        let (address, length) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
        let length = length.parse().ok().filter(|length| is_number && (1..=longest).contains(length));
        Ok(Self { address, length: length.ok_or_else(invalid)? })
    }
}

impl TryFrom<String> for StaticAddress {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<StaticAddress> for String {
    fn from(address: StaticAddress) -> Self {
        address.to_string()
    }
}

/// Returns one error for each rule that the static addresses of a network break.
pub(super) fn broken(network: &Network) -> Vec<Error> {
    let (all, gateways) = (&network.address, &network.gateway);
    if all.is_empty() && gateways.is_empty() {
        return Vec::new();
    }
    let has_interface =
        matches!(network.mode, Mode::Veth | Mode::Zone | Mode::Bridge | Mode::Macvlan | Mode::Ipvlan);
    if !has_interface || network.addresses == Addresses::None {
        let key = if all.is_empty() { "network.gateway" } else { "network.address" };
        let text = format!(
            "{key} requires network.mode = \"veth\", \"zone\", \"bridge\", \"macvlan\" or \"ipvlan\" and \
             network.addresses = \"auto\""
        );
        return vec![Error::new(text).with_hint("set the mode, or remove the setting")];
    }
    let mut errors = Vec::new();
    if all.len() > MOST {
        errors.push(Error::new(format!("network.address has more than {MOST} addresses")));
    }
    for own in all.iter().filter(|own| !own.is_usable()) {
        errors.push(Error::new(format!("a machine cannot have the address '{own}' of network.address")));
    }
    let repeated =
        all.iter().enumerate().find(|(at, own)| all[..*at].iter().any(|one| one.address == own.address));
    errors
        .extend(repeated.map(|(_, own)| Error::new(format!("network.address has '{}' twice", own.address))));
    errors.extend(broken_gateways(all, gateways));
    if network.mode.has_link() {
        errors.extend(broken_link(network));
    }
    errors
}

/// Checks the routers.
fn broken_gateways(all: &[StaticAddress], gateways: &[IpAddr]) -> Vec<Error> {
    let mut errors = Vec::new();
    for (at, gateway) in gateways.iter().enumerate() {
        if all.iter().any(|own| own.address == *gateway) {
            errors.push(Error::new(format!("network.gateway '{gateway}' is in network.address too")));
        } else if !all.iter().any(|own| own.contains(*gateway)) {
            let text = format!("network.gateway '{gateway}' is in no network of network.address");
            errors.push(Error::new(text).with_hint("set an address of the same network"));
        }
        if gateways[..at].iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
            errors.push(Error::new("network.gateway has several routers of one family"));
        }
    }
    errors
}

/// Checks the addresses of a link to the host: one of each family, in a network with room for the host.
fn broken_link(network: &Network) -> Vec<Error> {
    let mut errors = Vec::new();
    let mode = network.mode.as_str();
    for is_ipv4 in [true, false] {
        let count = network.address.iter().filter(|own| own.address.is_ipv4() == is_ipv4).count();
        let family = if is_ipv4 { "IPv4" } else { "IPv6" };
        if count > 1 {
            errors.push(
                Error::new(format!(
                    "network.address has {count} {family} addresses with network.mode = \"{mode}\""
                ))
                .with_hint("keep one of each family"),
            );
        }
    }
    for own in &network.address {
        let is_fitting = match own.address {
            IpAddr::V4(_) => own.length <= LONGEST_IPV4,
            IpAddr::V6(_) => own.length == IPV6_LENGTH,
        };
        if !is_fitting {
            let text =
                format!("'{own}' in network.address does not fit a link with network.mode = \"{mode}\"");
            errors.push(Error::new(text).with_hint(format!(
                "use a prefix of at most {LONGEST_IPV4} bits for IPv4, and of {IPV6_LENGTH} bits for IPv6"
            )));
        }
        let host = network.gateway.iter().find(|gateway| own.contains(**gateway));
        if network.mode == Mode::Zone
            && (own.address == own.numbered(1) || host.is_some_and(|host| *host != own.numbered(1)))
        {
            let text =
                format!("'{}' of the network of network.address is the host's in a zone", own.numbered(1));
            errors.push(Error::new(text).with_hint("it is the first one; choose another for the machine"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> StaticAddress {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_have_a_length() {
        assert_eq!(of("192.168.50.7/24").to_string(), "192.168.50.7/24");
        assert_eq!(of("fd00::7/64").network(), "fd00::".parse::<IpAddr>().unwrap());
        assert_eq!(of("192.168.50.7/1").network(), "128.0.0.0".parse::<IpAddr>().unwrap());
        for text in [
            "192.168.50.7",
            "192.168.50.7/0",
            "192.168.50.7/33",
            "fd00::7/129",
            "x/24",
            "1.2.3.4/+8",
            "1.2.3.4/",
        ] {
            assert!(text.parse::<StaticAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_host_has_the_first_other_address() {
        let host = |text| of(text).default_host().to_string();
        assert_eq!(host("192.168.50.7/24"), "192.168.50.1");
        assert_eq!(host("192.168.50.1/24"), "192.168.50.2");
        assert_eq!(host("fd00::1/64"), "fd00::2");
    }

    #[test]
    fn addresses_of_networks_are_not_usable() {
        for (text, is_usable) in [
            ("192.168.50.0/24", false),
            ("192.168.50.255/24", false),
            ("192.168.50.255/16", true),
            ("192.168.50.0/31", true),
            ("127.0.0.1/8", false),
            ("224.0.0.1/8", false),
            ("fd00::/64", false),
            ("fd00::/128", true),
            ("0.0.0.0/8", false),
        ] {
            assert_eq!(of(text).is_usable(), is_usable, "{text}");
        }
    }
}
