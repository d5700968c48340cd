//! The records of an extension header (pax(1), "pax Extended Header"). Called by `extensions`.

use crate::error::{Error, Result};

/// A record: its key and its value.
pub(super) type PaxRecord<'a> = (&'a [u8], &'a [u8]);

/// Splits an extension header into its records: each is its length, a blank, key, `=`, value and a newline.
///
/// # Errors
/// A record that is not of this form.
pub(super) fn records(mut text: &[u8]) -> Result<Vec<PaxRecord<'_>>> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let (record, rest) = split(text).ok_or_else(|| Error::new("its extension header is invalid"))?;
        found.push(record);
        text = rest;
    }
    Ok(found)
}

fn split(text: &[u8]) -> Option<(PaxRecord<'_>, &[u8])> {
    let blank = text.iter().take(8).position(|byte| *byte == b' ')?;
    let (digits, _) = text.split_at(blank);
    if digits.is_empty() || digits.starts_with(b"0") || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let record = text.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=').filter(|equals| *equals > 0)?;
    Some(((&record[..equals], record.get(equals + 1..)?), text.get(length..)?))
}

/// Returns a record as text.
pub(super) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    // A blank, an equals sign and a newline; the length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Parses a time: seconds, and up to nine digits of a fraction.
///
/// # Errors
/// Any other text.
pub(super) fn time(value: &[u8]) -> Result<(i64, i64)> {
    let parse = || {
        let text = std::str::from_utf8(value).ok()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = whole.parse().ok()?;
        if whole.starts_with('+') || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let nanoseconds: i64 = digits.parse().ok()?;
        if whole.starts_with('-') && nanoseconds > 0 {
            return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
        }
        Some((seconds, nanoseconds))
    };
    parse().ok_or_else(|| Error::new("the time in its extension header is invalid"))
}

/// Parses a decimal number.
///
/// # Errors
/// Any other text, and a negative or too large number.
pub(super) fn decimal(value: &[u8]) -> Result<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_number);
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::new("a number in its extension header is invalid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_written_and_split() {
        let long = vec![b'x'; 95];
        let text = [record(b"path", b"a\nb=c"), record(b"k", &long), record(b"empty", b"")].concat();
        let found = records(&text).unwrap();
        assert_eq!(found, [(&b"path"[..], &b"a\nb=c"[..]), (b"k", &long), (b"empty", b"")]);
        assert!(text.starts_with(b"14 path="));
    }

    #[test]
    fn other_records_are_refused() {
        for text in
            ["x", "5 a=b", "9 a=b\n", "06 a=b\n", "+6 a=b\n", "5 ab\n", "5 =b\n", " 6 a=b\n", "7 a=b\nx"]
        {
            assert!(records(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_may_be_negative() {
        assert_eq!(time(b"12.5").unwrap(), (12, 500_000_000));
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(time(b"7").unwrap(), (7, 0));
        for text in ["", "x", "1.x", "+1", "1.2.3", "99999999999999999999"] {
            assert!(time(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
