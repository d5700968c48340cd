//! `[resources.rlimits]`: limits of setrlimit(2), in the syntax of systemd.exec(5).

use crate::config::values::{INFINITY, RawValue, Size, Value, quoted};
use crate::error::{Error, Result, nearest};
use crate::machine::resources::{RLIMITS, Rlimit, RlimitUnit};
use std::time::Duration;

impl Value for Rlimit {
    /// Parses `NAME=SOFT:HARD` or `NAME=LIMIT`.
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else {
            return Err(raw.expected("a resource limit such as \"NOFILE=1024:4096\""));
        };
        let (name, limit) = text.split_once('=').ok_or_else(|| {
            Error::new(format!("{} is not a resource limit", quoted(text)))
                .with_hint("write NAME=SOFT:HARD or NAME=LIMIT, for example NOFILE=1024:4096")
        })?;
        Self::read_entry(name, &RawValue::Text(limit))
    }

    fn read_entry(name: &str, raw: &RawValue) -> Result<Self> {
        let (name, unit) = known(name)?;
        let (soft, hard) = limits(unit, raw).map_err(|error| error.context(format!("'{name}'")))?;
        Ok(Self { name, soft, hard })
    }

    fn show(&self) -> String {
        let shown = |limit: Option<u64>| limit.map_or(INFINITY.to_owned(), |number| number.to_string());
        if self.soft != self.hard {
            return format!("{} = \"{}:{}\"", self.name, shown(self.soft), shown(self.hard));
        }
        match self.soft {
            // The whole numbers of TOML have 63 bits.
            Some(number) if i64::try_from(number).is_ok() => format!("{} = {number}", self.name),
            limit => format!("{} = {}", self.name, quoted(&shown(limit))),
        }
    }
}

/// Returns the name and the unit of a limit; `RLIMIT_` and upper case are optional.
fn known(name: &str) -> Result<(&'static str, RlimitUnit)> {
    let lower = name.to_ascii_lowercase();
    let short = lower.strip_prefix("rlimit_").unwrap_or(&lower);
    if let Some(row) = RLIMITS.iter().find(|row| row.0 == short) {
        return Ok(*row);
    }
    let names = || RLIMITS.iter().map(|row| row.0);
    let error = Error::new(format!("unknown resource limit {}", quoted(name)));
    Err(match nearest(short, names()) {
        Some(near) => error.with_hint(format!("did you mean '{near}'?")),
        None => error.with_hint(format!("known limits: {}", names().collect::<Vec<_>>().join(", "))),
    })
}

/// Parses `SOFT:HARD`, or one value for both.
fn limits(unit: RlimitUnit, raw: &RawValue) -> Result<(Option<u64>, Option<u64>)> {
    let text = match raw {
        RawValue::Text(text) => (*text).to_owned(),
        RawValue::Integer(number) => number.to_string(),
        _ => return Err(raw.expected("a limit such as 1024 or \"1024:4096\"")),
    };
    let (soft, hard) = text.split_once(':').unwrap_or((&text, &text));
    let (soft, hard) = (limit(unit, soft)?, limit(unit, hard)?);
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        return Err(Error::new(format!("the soft limit of {} is above the hard limit", quoted(&text)))
            .with_hint("write SOFT:HARD with the lower number first"));
    }
    Ok((soft, hard))
}

/// Parses one limit. `None` is no limit.
fn limit(unit: RlimitUnit, text: &str) -> Result<Option<u64>> {
    if text == INFINITY {
        return Ok(None);
    }
    let number = match unit {
        RlimitUnit::Number => text.parse().ok(),
        RlimitUnit::Bytes => Size::read(&RawValue::Text(text)).ok().map(|size| size.0),
        RlimitUnit::Seconds => seconds(text),
        RlimitUnit::Microseconds => text.parse().ok().or_else(|| microseconds(text)),
        RlimitUnit::Nice => nice(text),
    };
    // RLIM_INFINITY is not a number.
    number
        .filter(|number| *number < u64::MAX && !text.starts_with(['+', '-']) || unit == RlimitUnit::Nice)
        .map(Some)
        .ok_or_else(|| {
            Error::new(format!("{} is not a limit", quoted(text))).with_hint(match unit {
                RlimitUnit::Number => "write a number, or \"infinity\"",
                RlimitUnit::Bytes => "write a size in bytes, for example \"64M\", or \"infinity\"",
                RlimitUnit::Seconds => {
                    "write a time in seconds, for example \"90\" or \"2min\", or \"infinity\""
                }
                RlimitUnit::Microseconds => {
                    "write a time in microseconds, for example \"500\" or \"20ms\", or \"infinity\""
                }
                RlimitUnit::Nice => {
                    "write a nice level with its sign, for example \"-5\", or a limit from 0 to 40"
                }
            })
        })
}

/// Returns a time in whole seconds, rounded up.
fn seconds(text: &str) -> Option<u64> {
    let time = Duration::read(&RawValue::Text(text)).ok()?;
    time.as_secs().checked_add(u64::from(time.subsec_nanos() > 0))
}

fn microseconds(text: &str) -> Option<u64> {
    u64::try_from(Duration::read(&RawValue::Text(text)).ok()?.as_micros()).ok()
}

/// Returns the limit for a nice level with its sign (setrlimit(2), RLIMIT_NICE), or the limit itself.
fn nice(text: &str) -> Option<u64> {
    if text.starts_with(['+', '-']) {
        let level: i64 = text.parse().ok().filter(|level| (-20..20).contains(level))?;
        return u64::try_from(20 - level).ok();
    }
    text.parse().ok().filter(|limit| *limit <= 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_the_units_of_their_resource() {
        for (text, soft, hard) in [
            ("NOFILE=1024:4096", Some(1024), Some(4096)),
            ("RLIMIT_NOFILE=7", Some(7), Some(7)),
            ("core=infinity", None, None),
            ("memlock=64K:infinity", Some(65536), None),
            ("cpu=1500ms:1min", Some(2), Some(60)),
            ("rttime=500:20ms", Some(500), Some(20_000)),
            ("nice=+5", Some(15), Some(15)),
            ("nice=0:-20", Some(0), Some(40)),
        ] {
            let limit = Rlimit::read(&RawValue::Text(text)).unwrap();
            assert_eq!((limit.soft, limit.hard), (soft, hard), "{text}");
            let shown: toml::Table = limit.show().parse().unwrap();
            let (name, value) = shown.iter().next().unwrap();
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert_eq!(Rlimit::read_entry(name, &RawValue::Text(&value)).unwrap(), limit, "{text}");
        }
    }

    #[test]
    fn invalid_limits_are_refused() {
        for bad in [
            "",
            "nofile",
            "nofile=",
            "nofile=1:2:3",
            "nofile=2:1",
            "nofile=infinity:1",
            "nofile=-1",
            "nofile=+1",
            "nofile=1K",
            "nofile=18446744073709551615",
            "nice=-21",
            "nice=41",
            "cpu=-1",
            "as=1 X",
            "files=1",
        ] {
            assert!(Rlimit::read(&RawValue::Text(bad)).is_err(), "{bad}");
        }
        let error = Rlimit::read(&RawValue::Text("nofiles=1")).unwrap_err();
        assert_eq!(error.hint(), Some("did you mean 'nofile'?"));
    }
}
