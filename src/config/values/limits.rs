//! Sizes, counts, shares and durations, as people write them.

use super::{Given, Value, quoted};
use crate::error::{Error, Result};
use std::time::Duration;

/// The word for no limit, as in systemd.resource-control(5).
const INFINITY: &str = "infinity";

/// A number of bytes; [`u64::MAX`] for no limit, as systemd's properties have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// A count; [`u64::MAX`] for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub u64);

/// A share of one processor in percent; `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota(pub Option<u32>);

/// A weight from 1 to 10000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(pub u64);

impl Value for Size {
    fn read(given: &Given) -> Result<Self> {
        let bytes = match given {
            Given::Text(text) if *text == INFINITY => return Ok(Self(u64::MAX)),
            Given::Text(text) => size(text)?,
            Given::Integer(number) => u64::try_from(*number)
                .map_err(|_| Error::new(format!("the size {number} is less than nothing")))?,
            _ => return Err(given.expected("a size, as \"512M\"")),
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

/// A size of `512`, `512M`, `1.5G`: suffixes are powers of 1024, as in systemd.
fn size(text: &str) -> Result<u64> {
    let wrong = || {
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
        _ => return Err(wrong()),
    };
    if text.trim().ends_with('B') && !text.trim().ends_with("iB") && shift > 0 {
        // 512MB may mean either: nobody is served by a guess.
        return Err(wrong());
    }
    let (whole, fraction) = digits.trim().split_once('.').unwrap_or((digits.trim(), "0"));
    if [whole, fraction].iter().any(|part| part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit())) {
        return Err(wrong());
    }
    let too_large = || Error::new(format!("the size {} is too large", quoted(text)));
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    // Nine digits of fraction are more than any suffix people write after a fraction needs.
    let fraction = &fraction[..fraction.len().min(9)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or_default());
    let part: u128 = fraction.parse().map_err(|_| wrong())?;
    let bytes = (u128::from(whole) << shift) + ((part << shift) / scale);
    u64::try_from(bytes).map_err(|_| too_large())
}

impl Value for Limit {
    fn read(given: &Given) -> Result<Self> {
        let number = match given {
            Given::Text(text) if *text == INFINITY => return Ok(Self(u64::MAX)),
            Given::Text(text) => text.parse().ok(),
            Given::Integer(number) => u64::try_from(*number).ok(),
            _ => return Err(given.expected("a number")),
        };
        number.filter(|number| (1..u64::MAX).contains(number)).map(Self).ok_or_else(|| {
            Error::new(format!("{} is not a count", shown(given)))
                .with_hint("write a number from 1, or \"infinity\"")
        })
    }

    fn show(&self) -> String {
        if self.0 == u64::MAX { quoted(INFINITY) } else { self.0.to_string() }
    }
}

impl Value for Quota {
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("a percentage, as \"150%\"")) };
        if *text == INFINITY {
            return Ok(Self(None));
        }
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        percent.filter(|percent| *percent > 0).map(|percent| Self(Some(percent))).ok_or_else(|| {
            Error::new(format!("{} is not a share of a processor", quoted(text)))
                .with_hint("write whole percents of one processor, as \"150%\", or \"infinity\"")
        })
    }

    fn show(&self) -> String {
        self.0.map_or_else(|| quoted(INFINITY), |percent| format!("\"{percent}%\""))
    }
}

impl Value for Weight {
    fn read(given: &Given) -> Result<Self> {
        let number = match given {
            Given::Text(text) => text.parse().ok(),
            Given::Integer(number) => u64::try_from(*number).ok(),
            _ => return Err(given.expected("a number")),
        };
        number.filter(|number| (1..=10_000).contains(number)).map(Self).ok_or_else(|| {
            Error::new(format!("{} is not a weight", shown(given)))
                .with_hint("write a number from 1 to 10000; 100 is the usual one")
        })
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// A number or text as it was written.
fn shown(given: &Given) -> String {
    match given {
        Given::Text(text) => quoted(text),
        Given::Integer(number) => number.to_string(),
        Given::Boolean(value) => value.to_string(),
        Given::Other(word) => (*word).to_owned(),
    }
}

/// A duration with units, of which a day has 24 hours.
fn spelled(text: &str) -> Option<Duration> {
    let span = jiff::fmt::friendly::SpanParser::new().parse_span(text).ok()?;
    span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?.try_into().ok()
}

impl Value for Duration {
    /// `90s`, `1min 30s`, bare seconds, or `infinity` ([`Duration::MAX`]).
    fn read(given: &Given) -> Result<Self> {
        let wrong = || {
            Error::new(format!("{} is not a duration", shown(given)))
                .with_hint("write it as \"90s\", \"1min 30s\", a number of seconds, or \"infinity\"")
        };
        match given {
            Given::Integer(seconds) => u64::try_from(*seconds).map(Self::from_secs).map_err(|_| wrong()),
            Given::Text(text) if *text == INFINITY => Ok(Self::MAX),
            Given::Text(text) => {
                if let Ok(seconds) = text.parse() {
                    return Ok(Self::from_secs(seconds));
                }
                spelled(text).ok_or_else(wrong)
            }
            _ => Err(given.expected("a duration, as \"90s\"")),
        }
    }

    fn show(&self) -> String {
        if *self == Self::MAX {
            return quoted(INFINITY);
        }
        let seconds = self.as_secs();
        let parts = [
            (seconds / 3600, "h"),
            (seconds % 3600 / 60, "min"),
            (seconds % 60, "s"),
            (u64::from(self.subsec_millis()), "ms"),
            (u64::from(self.subsec_micros() % 1000), "us"),
        ];
        let shown: Vec<String> = parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, unit)| format!("{number}{unit}"))
            .collect();
        if shown.is_empty() { quoted("0s") } else { quoted(&shown.join(" ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        let read = |text| Size::read(&Given::Text(text)).map(|size| size.0);
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
    fn durations_are_read_as_people_write_them() {
        let read = |text| Duration::read(&Given::Text(text));
        assert_eq!(read("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(read("1min 30s").unwrap(), Duration::from_secs(90));
        assert_eq!(read("1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(read("2d").unwrap(), Duration::from_secs(172_800));
        assert_eq!(read("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(read("90").unwrap(), Duration::from_secs(90));
        assert_eq!(read("infinity").unwrap(), Duration::MAX);
        for bad in ["", "s", "-90s", "soon", "1x", "99999999999999999999"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Duration::from_secs(90).show(), "\"1min 30s\"");
    }

    #[test]
    fn counts_shares_and_weights_have_bounds() {
        assert_eq!(Limit::read(&Given::Integer(2048)).unwrap(), Limit(2048));
        assert!(Limit::read(&Given::Integer(0)).is_err());
        assert!(Limit::read(&Given::Integer(-1)).is_err());
        assert_eq!(Quota::read(&Given::Text("150%")).unwrap(), Quota(Some(150)));
        for bad in ["150", "0%", "-5%", "99999999999%", "%"] {
            assert!(Quota::read(&Given::Text(bad)).is_err(), "{bad}");
        }
        assert!(Weight::read(&Given::Integer(10_000)).is_ok());
        assert!(Weight::read(&Given::Integer(10_001)).is_err());
    }
}
