//! Digests of content (image specification, "Digests"). A digest is the name of a file: its text has no other
//! characters than those of its algorithm.

use crate::error::{Error, Result};
use crate::tree::entry::quoted;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The number of hexadecimal digits.
const DIGITS: usize = 64;

/// A SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// Parses `sha256:` and its digits.
    ///
    /// # Errors
    /// Another algorithm, or an invalid text.
    pub fn parse(text: &str) -> Result<Self> {
        let digits = text.strip_prefix("sha256:").ok_or_else(|| {
            Error::new(format!("{} is not a SHA-256 digest", quoted(text.as_bytes())))
                .with_hint("only 'sha256' is supported: convert the image by skopeo(1)")
        })?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != DIGITS || !digits.bytes().all(is_digit) {
            return Err(Error::new(format!("{} is not a digest", quoted(text.as_bytes()))));
        }
        Ok(Self(digits.to_owned()))
    }

    /// Returns the digest with these digits, which this program has computed.
    pub(crate) fn of_digits(digits: &str) -> Self {
        Self(digits.to_owned())
    }

    /// Computes the digest of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Returns the digits.
    pub fn digits(&self) -> &str {
        &self.0
    }

    /// Returns the path of the blob in a layout.
    pub(crate) fn blob(&self) -> String {
        format!("blobs/sha256/{}", self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_no_paths() {
        let digest = Digest::of(b"abc");
        assert_eq!(Digest::parse(&digest.to_string()).unwrap(), digest);
        let digits = "a".repeat(DIGITS);
        for text in [
            String::new(),
            "sha256:".into(),
            digits.clone(),
            format!("sha512:{digits}"),
            format!("sha256:{}", digits.to_uppercase()),
            format!("sha256:{digits}a"),
            format!("sha256:{}/../x", &digits[..59]),
            format!("SHA256:{digits}"),
        ] {
            assert!(Digest::parse(&text).is_err(), "{text}");
        }
    }
}
