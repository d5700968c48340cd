//! Sizes and counts.

use super::{INFINITY, RawValue, Value, quoted};
use crate::error::{Error, Result};

/// A number of bytes; [`u64::MAX`] for no limit, as in the properties of systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// A count; [`u64::MAX`] for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountLimit(pub u64);

impl Value for Size {
    fn read(raw: &RawValue) -> Result<Self> {
        let bytes = match raw {
            RawValue::Text(text) if *text == INFINITY => return Ok(Self(u64::MAX)),
            RawValue::Text(text) => size(text)?,
            RawValue::Integer(number) => {
                u64::try_from(*number).map_err(|_| Error::new(format!("the size {number} is negative")))?
            }
            _ => return Err(raw.expected("a size such as \"512M\"")),
        };
        if bytes == u64::MAX {
            return Err(Error::new("the size is too large").with_hint("write \"infinity\" for no limit"));
        }
        Ok(Self(bytes))
    }

    fn show(&self) -> String {
        if self.0 == u64::MAX {
            return quoted(INFINITY);
        }
        let mut number = self.0;
        let mut suffix = "";
        for next in ["K", "M", "G", "T", "P", "E"] {
            if number == 0 || !number.is_multiple_of(1024) {
                break;
            }
            number /= 1024;
            suffix = next;
        }
        if suffix.is_empty() { number.to_string() } else { format!("\"{number}{suffix}\"") }
    }
}

/// Parses a size such as `512`, `512M` or `1.5G`; suffixes are powers of 1024, as in systemd.
fn size(text: &str) -> Result<u64> {
    let invalid = || {
        Error::new(format!("{} is not a size", quoted(text)))
            .with_hint("write a number with K, M, G or T (powers of 1024), or \"infinity\"")
    };
    let digits = text.trim().trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let suffix = text.trim()[digits.len()..].trim_end_matches("iB").trim_end_matches('B');
    let shift = match suffix {
        "" => 0,
        "K" | "k" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        _ => return Err(invalid()),
    };
    if text.trim().ends_with('B') && !text.trim().ends_with("iB") && shift > 0 {
        // 512MB is ambiguous: powers of 1000 or of 1024.
        return Err(invalid());
    }
    let (whole, fraction) = digits.trim().split_once('.').unwrap_or((digits.trim(), "0"));
    if [whole, fraction].iter().any(|part| part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit())) {
        return Err(invalid());
    }
    let too_large = || Error::new(format!("the size {} is too large", quoted(text)));
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    // Nine digits are precise to a byte up to a suffix of G.
    let fraction = &fraction[..fraction.len().min(9)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or_default());
    let part: u128 = fraction.parse().map_err(|_| invalid())?;
    let bytes = (u128::from(whole) << shift) + ((part << shift) / scale);
    u64::try_from(bytes).map_err(|_| too_large())
}

impl Value for CountLimit {
    fn read(raw: &RawValue) -> Result<Self> {
        let number = match raw {
            RawValue::Text(text) if *text == INFINITY => return Ok(Self(u64::MAX)),
            RawValue::Text(text) => text.parse().ok(),
            RawValue::Integer(number) => u64::try_from(*number).ok(),
            _ => return Err(raw.expected("a number")),
        };
        number.filter(|number| (1..u64::MAX).contains(number)).map(Self).ok_or_else(|| {
            Error::new(format!("{} is not a count", raw)).with_hint("write a number from 1, or \"infinity\"")
        })
    }

    fn show(&self) -> String {
        if self.0 == u64::MAX { quoted(INFINITY) } else { self.0.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        let read = |text| Size::read(&RawValue::Text(text)).map(|size| size.0);
        assert_eq!(read("512M").unwrap(), 512 << 20);
        assert_eq!(read("1.5G").unwrap(), 3 << 29);
        assert_eq!(read("4096").unwrap(), 4096);
        assert_eq!(read("2GiB").unwrap(), 2 << 30);
        assert_eq!(read("infinity").unwrap(), u64::MAX);
        for bad in
            ["", "M", "-1", "1 MB", "12MB", "1..5G", "50%", "99999999999999999999", "17E", "1e9", "1.G"]
        {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Size(512 << 20).show(), "\"512M\"");
        assert_eq!(Size(0).show(), "0");
    }

    #[test]
    fn counts_are_bounded() {
        assert_eq!(CountLimit::read(&RawValue::Integer(2048)).unwrap(), CountLimit(2048));
        assert!(CountLimit::read(&RawValue::Integer(0)).is_err());
        assert!(CountLimit::read(&RawValue::Integer(-1)).is_err());
    }
}
