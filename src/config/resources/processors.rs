//! `resources.cpu-affinity`: processors by their numbers.

use crate::config::values::{RawValue, Value, quoted};
use crate::error::{Error, Result};
use crate::machine::resources::PROCESSORS_MAX;
use std::ops::RangeInclusive;

/// A range of processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processors(pub RangeInclusive<u16>);

impl Value for Processors {
    /// Parses a number, or `FIRST-LAST`.
    fn read(raw: &RawValue) -> Result<Self> {
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number| is_number && *number < PROCESSORS_MAX)
        };
        let range = match raw {
            RawValue::Integer(one) => number(&one.to_string()).map(|one| one..=one),
            RawValue::Text(text) => {
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                number(first).zip(number(last)).map(|(first, last)| first..=last)
            }
            _ => return Err(raw.expected("the number of a processor, or a range such as \"0-3\"")),
        };
        range.filter(|range| !range.is_empty()).map(Self).ok_or_else(|| {
            Error::new(format!("{raw} is not a number or range of processors")).with_hint(format!(
                "write numbers below {PROCESSORS_MAX} as in /proc/cpuinfo, for example 2 or \"0-3\""
            ))
        })
    }

    fn show(&self) -> String {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { first.to_string() } else { quoted(&format!("{first}-{last}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_numbers_and_ranges() {
        let read = |text| Processors::read(&RawValue::Text(text));
        assert_eq!(read("3").unwrap().0, 3..=3);
        assert_eq!(read("0-3").unwrap().show(), "\"0-3\"");
        assert_eq!(Processors::read(&RawValue::Integer(7)).unwrap().show(), "7");
        for bad in ["", "-", "1-", "-1", "3-1", "1024", "+1", "x", "1,2", "99999999999"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(Processors::read(&RawValue::Integer(-1)).is_err());
    }
}
