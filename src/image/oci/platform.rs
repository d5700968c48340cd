//! The platform of an image, in words of Go (image specification, "Image Index"). Called by `import` and `export`.

use super::document::DocumentPlatform;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The words of Go for processors, by those of Rust.
const ARCHITECTURES: [(&str, &str, Option<&str>); 9] = [
    ("x86_64", "amd64", None),
    ("x86", "386", None),
    ("aarch64", "arm64", Some("v8")),
    ("arm", "arm", Some("v7")),
    ("powerpc64", "ppc64le", None),
    ("riscv64", "riscv64", None),
    ("s390x", "s390x", None),
    ("loongarch64", "loong64", None),
    ("mips64", "mips64le", None),
];

/// A platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platform {
    /// The system.
    pub(crate) os: String,
    /// The processor.
    pub(crate) architecture: String,
    /// Its variant.
    pub(crate) variant: Option<String>,
}

impl Platform {
    /// Returns that of this host.
    pub(crate) fn of_host() -> Self {
        let own = std::env::consts::ARCH;
        let found = ARCHITECTURES.iter().find(|(rust, ..)| *rust == own);
        let (architecture, variant) = found.map_or((own, None), |(_, go, variant)| (go, *variant));
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Returns how well an image fits: 0 for the best. `None` if it does not fit.
    pub(crate) fn distance(&self, other: &DocumentPlatform) -> Option<u8> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        let other = other.variant.as_deref().filter(|variant| !variant.is_empty());
        match (self.variant.as_deref(), other) {
            (own, other) if own == other => Some(0),
            (_, None) => Some(1),
            (None, Some(_)) => Some(2),
            // A processor runs programs for an older one.
            (Some(own), Some(other)) => {
                let number = |text: &str| text.strip_prefix('v')?.parse::<u8>().ok();
                let (own, other) = (number(own)?, number(other)?);
                own.checked_sub(other).map(|older| older.saturating_add(2))
            }
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some((*variant).to_owned())),
            _ => return Err(invalid(text)),
        };
        if !parts.iter().all(is_word) {
            return Err(invalid(text));
        }
        Ok(Self { os: (*os).to_owned(), architecture: (*architecture).to_owned(), variant })
    }
}

fn invalid(text: &str) -> Error {
    Error::usage(format!("'{}' is not a platform", text.escape_debug()))
        .with_hint("write OS/ARCH or OS/ARCH/VARIANT, for example linux/arm64")
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_variant_is_the_best() {
        let of = |text: &str| text.parse::<Platform>().unwrap();
        let document = |text: &str| {
            let Platform { os, architecture, variant } = of(text);
            DocumentPlatform { architecture, os, variant }
        };
        let distance = |own: &str, other: &str| of(own).distance(&document(other));
        assert_eq!(distance("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(distance("linux/amd64", "linux/arm64"), None);
        assert_eq!(distance("linux/amd64", "windows/amd64"), None);
        assert!(distance("linux/arm/v7", "linux/arm/v6") < distance("linux/arm/v7", "linux/arm/v5"));
        assert_eq!(distance("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(distance("linux/arm64/v8", "linux/arm64"), Some(1));
        for text in ["", "linux", "linux/", "linux/a/b/c", "linux/../x", "li nux/amd64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
