//! Durations.

use super::{INFINITY, RawValue, Value, quoted};
use crate::error::{Error, Result};
use std::time::Duration;

/// Parses a duration with units; a day has 24 hours.
fn with_units(text: &str) -> Option<Duration> {
    let span = jiff::fmt::friendly::SpanParser::new().parse_span(text).ok()?;
    span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?.try_into().ok()
}

impl Value for Duration {
    /// Parses `90s`, `1min 30s`, a number of seconds, or `infinity` ([`Duration::MAX`]).
    fn read(raw: &RawValue) -> Result<Self> {
        let invalid = || {
            Error::new(format!("{} is not a duration", raw)).with_hint(
                "write a duration, for example \"90s\" or \"1min 30s\", a number of seconds, or \"infinity\"",
            )
        };
        match raw {
            RawValue::Integer(seconds) => u64::try_from(*seconds).map(Self::from_secs).map_err(|_| invalid()),
            RawValue::Text(text) if *text == INFINITY => Ok(Self::MAX),
            RawValue::Text(text) => {
                if let Ok(seconds) = text.parse() {
                    return Ok(Self::from_secs(seconds));
                }
                with_units(text).ok_or_else(invalid)
            }
            _ => Err(raw.expected("a duration such as \"90s\"")),
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
    fn durations_have_units() {
        let read = |text| Duration::read(&RawValue::Text(text));
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
}
