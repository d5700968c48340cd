//! 128-bit ids of sd-id128(3): machine ids (machine-id(5)) and boot ids.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A 128-bit id. Its text form is 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id128([u8; 16]);

impl Id128 {
    /// The id of an unknown system: all zero.
    pub const NULL: Self = Self([0; 16]);

    /// Creates an id of these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Creates an id of random bytes, with the version and variant bits of a random UUID (RFC 9562, section
    /// 5.4), which machine-id(5) requires.
    pub(crate) fn of_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Returns the bytes.
    pub(crate) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns whether all bytes are zero.
    pub(crate) fn is_null(self) -> bool {
        self == Self::NULL
    }

    /// Formats the id as a UUID: `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    pub(crate) fn to_uuid(self) -> String {
        let hex = self.to_string();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }
}

impl fmt::Display for Id128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for Id128 {
    type Err = Error;

    /// Parses 32 hexadecimal digits, with or without dashes.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::new("expected 32 hexadecimal digits");
        let digits: String = text.chars().filter(|letter| *letter != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        u128::from_str_radix(&digits, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| invalid())
    }
}

impl TryFrom<String> for Id128 {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Id128> for String {
    fn from(id: Id128) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Id128;

    #[test]
    fn ids_are_32_digits_and_parsed_with_dashes_too() {
        let id = Id128::of_random([0xab; 16]);
        assert_eq!(id.to_string(), "abababababab4bababababababababab");
        assert_eq!(id.to_uuid(), "abababab-abab-4bab-abab-abababababab");
        assert_eq!([id.to_string(), id.to_uuid()].map(|text| text.parse::<Id128>().unwrap()), [id; 2]);
        for bad in ["", "0", &"g".repeat(32), &"é".repeat(16), "+0000000000000000000000000000001"] {
            assert!(bad.parse::<Id128>().is_err(), "{bad}");
        }
        assert!("0".repeat(32).parse::<Id128>().unwrap().is_null());
    }
}
