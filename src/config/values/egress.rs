//! Whom a machine may speak to and how fast, as people write it.

use super::{Given, Value, quoted};
use crate::config::nearest::nearest;
use crate::error::{Error, Result};
use crate::machine::egress::{Destination, Range};
use std::net::IpAddr;

const WORDS: [(&str, Destination); 3] =
    [("any", Destination::Any), ("none", Destination::None), ("zone", Destination::Zone)];

impl Value for Destination {
    /// `any`, `none`, `zone`, `10.0.0.0/8`, or an address.
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else {
            return Err(given.expected("a network, as \"10.0.0.0/8\""));
        };
        if let Some((_, word)) = WORDS.iter().find(|(word, _)| word == text) {
            return Ok(*word);
        }
        let wrong = || {
            let error = Error::new(format!("{} is no network", quoted(text)));
            error.with_hint(match nearest(text, WORDS.iter().map(|(word, _)| *word)) {
                Some(near) => format!("did you mean {}?", quoted(near)),
                None => "write \"none\", \"zone\", \"any\" or networks, as \"10.0.0.0/8\"".to_owned(),
            })
        };
        let (address, length) = text.split_once('/').map_or((*text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let plain = |length: &str| length.bytes().all(|byte| byte.is_ascii_digit());
        let length = match length {
            Some(length) => length.parse().ok().filter(|_| plain(length)).ok_or_else(wrong)?,
            None => whole,
        };
        let range = Range::new(address, length).ok_or_else(|| {
            Error::new(format!("{} is no network", quoted(text)))
                .with_hint(format!("an address of this family has {whole} bits"))
        })?;
        if range.first() != address {
            return Err(Error::new(format!("{} has bits beyond its length", quoted(text)))
                .with_hint(format!("did you mean \"{range}\"?")));
        }
        Ok(Self::Network(range))
    }

    fn show(&self) -> String {
        match self {
            Self::Network(range) => quoted(&range.to_string()),
            word => quoted(WORDS.iter().find(|(_, other)| other == word).map_or("", |(word, _)| word)),
        }
    }
}

/// Bits in a second; nothing for no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

/// The least: what one largest packet makes of it takes a second.
const LEAST: u64 = 8_000;
/// The most that is sensible to bound: what is above no link has.
const MOST: u64 = 10_000_000_000_000;

impl Value for Rate {
    /// `100M`, `1.5G`: bits in a second, suffixes are powers of 1000, as in Incus and tc(8).
    fn read(given: &Given) -> Result<Self> {
        let bits = match given {
            Given::Text("infinity") => return Ok(Self(None)),
            Given::Text(text) => rate(text)?,
            Given::Integer(number) => u64::try_from(*number).unwrap_or(0),
            _ => return Err(given.expected("a rate, as \"100M\"")),
        };
        if !(LEAST..=MOST).contains(&bits) {
            return Err(Error::new(format!("a rate of {bits} bits in a second is out of bounds"))
                .with_hint("write a rate from \"8K\" to \"10T\", or \"infinity\" for none"));
        }
        Ok(Self(Some(bits)))
    }

    fn show(&self) -> String {
        let Some(mut number) = self.0 else { return quoted("infinity") };
        let mut suffix = "";
        for next in ["K", "M", "G", "T"] {
            if !number.is_multiple_of(1000) {
                break;
            }
            number /= 1000;
            suffix = next;
        }
        if suffix.is_empty() { number.to_string() } else { quoted(&format!("{number}{suffix}")) }
    }
}

fn rate(text: &str) -> Result<u64> {
    let wrong = || {
        Error::new(format!("{} is no rate", quoted(text)))
            .with_hint("write bits in a second with K, M, G or T (powers of 1000), as \"100M\"")
    };
    let short = text.trim_end_matches("bit");
    let (digits, power) = match short.as_bytes().last() {
        Some(b'K' | b'k') => (&short[..short.len() - 1], 1),
        Some(b'M') => (&short[..short.len() - 1], 2),
        Some(b'G') => (&short[..short.len() - 1], 3),
        Some(b'T') => (&short[..short.len() - 1], 4),
        _ => (short, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number =
        |part: &str| !part.is_empty() && part.len() <= 15 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
        return Err(wrong());
    }
    let unit = 1000_u128.pow(power);
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let parsed = |part: &str| part.parse::<u128>().map_err(|_| wrong());
    let bits = parsed(whole)? * unit + parsed(fraction)? * unit / scale;
    Ok(u64::try_from(bits).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_and_shown() {
        let read = |text| Destination::read(&Given::Text(text));
        for (text, shown) in [
            ("none", "none"),
            ("zone", "zone"),
            ("any", "any"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("fd00::/8", "fd00::/8"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(read(text).unwrap().show(), quoted(shown));
        }
        for bad in
            ["", "nome", "10.0.0.0/33", "10.0.0.1/8", "10/8", "10.0.0.0/+8", "fd00::/", "host", "[::1]"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(read("10.0.0.1/8").unwrap_err().hint(), Some("did you mean \"10.0.0.0/8\"?"));
    }

    #[test]
    fn rates_are_read_and_shown() {
        let read = |text| Rate::read(&Given::Text(text));
        for (text, bits, shown) in [
            ("100M", 100_000_000, "\"100M\""),
            ("1.5G", 1_500_000_000, "\"1500M\""),
            ("10Mbit", 10_000_000, "\"10M\""),
            ("8001", 8001, "8001"),
        ] {
            assert_eq!(read(text).unwrap(), Rate(Some(bits)));
            assert_eq!(read(text).unwrap().show(), shown);
        }
        assert_eq!(read("infinity").unwrap().show(), "\"infinity\"");
        for bad in ["", "M", "10MB", "1e9", "-1", "7K", "11T", "1.G", "99999999999999999999", "10Mi"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
