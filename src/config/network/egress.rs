//! Values of `network.egress` and `network.rate-*`.

use crate::config::values::{INFINITY, RawValue, Value, quoted, word_of};
use crate::error::{Error, Result, nearest};
use crate::machine::egress::{Destination, Prefix};
use std::net::IpAddr;

const WORDS: &[(&str, Destination)] =
    &[("any", Destination::Any), ("none", Destination::None), ("zone", Destination::Zone)];

impl Value for Destination {
    /// Parses `any`, `none`, `zone`, a network such as `10.0.0.0/8`, or an address.
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else {
            return Err(raw.expected("a network such as \"10.0.0.0/8\""));
        };
        if let Some((_, word)) = WORDS.iter().find(|(word, _)| word == text) {
            return Ok(*word);
        }
        let invalid = || {
            let error = Error::new(format!("{} is not an address or network", quoted(text)));
            error.with_hint(match nearest(text, WORDS.iter().map(|(word, _)| *word)) {
                Some(near) => format!("did you mean {}?", quoted(near)),
                None => {
                    "write \"none\", \"zone\", \"any\" or networks, for example \"10.0.0.0/8\"".to_owned()
                }
            })
        };
        let (address, length) = text.split_once('/').map_or((*text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let plain = |length: &str| length.bytes().all(|byte| byte.is_ascii_digit());
        let length = match length {
            Some(length) => length.parse().ok().filter(|_| plain(length)).ok_or_else(invalid)?,
            None => whole,
        };
        let range = Prefix::new(address, length).ok_or_else(|| {
            Error::new(format!("{} is not an address or network", quoted(text)))
                .with_hint(format!("write a prefix length of at most {whole}"))
        })?;
        if range.first() != address {
            return Err(Error::new(format!("{} has bits set beyond its prefix length", quoted(text)))
                .with_hint(format!("did you mean \"{range}\"?")));
        }
        Ok(Self::Network(range))
    }

    fn show(&self) -> String {
        match self {
            Self::Network(range) => quoted(&range.to_string()),
            word => word_of(word, WORDS),
        }
    }
}

/// A rate in bits per second; `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

/// The lowest rate: below it, sending one packet of 1000 bytes takes more than a second.
const LOWEST: u64 = 8_000;
/// The highest rate: no link is faster.
const HIGHEST: u64 = 10_000_000_000_000;

impl Value for Rate {
    /// Parses bits per second such as `100M` or `1.5G`; suffixes are powers of 1000, as in Incus and tc(8).
    fn read(raw: &RawValue) -> Result<Self> {
        let bits = match raw {
            RawValue::Text(text) if *text == INFINITY => return Ok(Self(None)),
            RawValue::Text(text) => rate(text)?,
            RawValue::Integer(number) => u64::try_from(*number).unwrap_or(0),
            _ => return Err(raw.expected("a rate such as \"100M\"")),
        };
        if !(LOWEST..=HIGHEST).contains(&bits) {
            return Err(Error::new(format!("rate out of range: {bits} bits per second"))
                .with_hint("write a rate from \"8K\" to \"10T\", or \"infinity\" for no limit"));
        }
        Ok(Self(Some(bits)))
    }

    fn show(&self) -> String {
        let Some(mut number) = self.0 else { return quoted(INFINITY) };
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
    let invalid = || {
        Error::new(format!("{} is not a rate", quoted(text)))
            .with_hint("write bits per second with K, M, G or T (powers of 1000), for example \"100M\"")
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
        return Err(invalid());
    }
    let unit = 1000_u128.pow(power);
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let parsed = |part: &str| part.parse::<u128>().map_err(|_| invalid());
    let bits = parsed(whole)? * unit + parsed(fraction)? * unit / scale;
    Ok(u64::try_from(bits).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_parsed_and_shown() {
        let read = |text| Destination::read(&RawValue::Text(text));
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
    fn rates_are_parsed_and_shown() {
        let read = |text| Rate::read(&RawValue::Text(text));
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
