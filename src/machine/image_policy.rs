//! The policy of a disk image: which partitions may be used, and with which protection
//! (systemd.image-policy(7)).

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The permitted uses of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionPolicy(u16);

/// The flags by their names. The first ones permit a use; the others require flags of the partition table.
const FLAGS: [(&str, u16); 12] = [
    ("verity", 1),
    ("signed", 1 << 1),
    ("encrypted", 1 << 2),
    ("unprotected", 1 << 3),
    ("unused", 1 << 4),
    ("absent", 1 << 5),
    ("read-only-on", 1 << 6),
    ("read-only-off", 1 << 7),
    ("growfs-on", 1 << 8),
    ("growfs-off", 1 << 9),
    ("open", USES),
    ("ignore", 1 << 4 | 1 << 5),
];
/// All flags that permit a use.
const USES: u16 = 0x3f;
/// The flags that require an attribute of the table.
const READ_ONLY: u16 = 3 << 6;
const GROW: u16 = 3 << 8;

impl PartitionPolicy {
    /// Everything is permitted.
    pub(crate) const OPEN: Self = Self(USES | READ_ONLY | GROW);
    /// The partition is not used.
    const IGNORE: Self = Self(1 << 4 | 1 << 5 | READ_ONLY | GROW);

    fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }

    /// Returns whether the partition may be used with hashes of dm-verity, signed or not.
    pub(crate) fn permits_verity(self) -> bool {
        self.has(3)
    }

    /// Returns whether the partition may be used encrypted.
    pub(crate) fn permits_encrypted(self) -> bool {
        self.has(1 << 2)
    }

    /// Returns whether the partition may be used without protection.
    pub(crate) fn permits_unprotected(self) -> bool {
        self.has(1 << 3)
    }

    /// Returns whether an existing partition may be left out.
    pub(crate) fn permits_unused(self) -> bool {
        self.has(1 << 4)
    }

    /// Returns whether the partition may be missing.
    pub(crate) fn permits_absent(self) -> bool {
        self.has(1 << 5)
    }

    /// Returns whether the partition may have this state of the flag for read-only partitions.
    pub(crate) fn permits_read_only(self, is_set: bool) -> bool {
        self.has(if is_set { 1 << 6 } else { 1 << 7 })
    }
}

impl FromStr for PartitionPolicy {
    type Err = Error;

    /// Parses flags, joined by `+`. Without a flag of a kind, all of that kind are permitted.
    fn from_str(text: &str) -> Result<Self> {
        let mut flags = 0;
        for word in text.split('+').map(str::trim).filter(|word| !word.is_empty()) {
            let known = FLAGS.iter().find(|(name, _)| *name == word);
            let (_, flag) = known.ok_or_else(|| {
                let names: Vec<&str> = FLAGS.iter().map(|(name, _)| *name).collect();
                Error::new(format!("unknown flag '{}'", word.escape_debug()))
                    .with_hint(format!("write one of {}", names.join(", ")))
            })?;
            flags |= flag;
        }
        for kind in [USES, READ_ONLY, GROW] {
            if flags & kind == 0 {
                flags |= kind;
            }
        }
        Ok(Self(flags))
    }
}

/// The names of partitions. Those of hashes and signatures, and swap, have no effect.
const PARTITIONS: [&str; 13] = [
    "root",
    "usr",
    "home",
    "srv",
    "esp",
    "xbootldr",
    "swap",
    "root-verity",
    "root-verity-sig",
    "usr-verity",
    "usr-verity-sig",
    "tmp",
    "var",
];

/// The policy of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePolicy {
    text: String,
    partitions: Vec<(&'static str, PartitionPolicy)>,
    /// The policy of partitions that are not named.
    others: PartitionPolicy,
}

impl ImagePolicy {
    /// Returns the policy of a partition, by its name.
    pub(crate) fn of(&self, name: &str) -> PartitionPolicy {
        self.partitions.iter().find(|(known, _)| *known == name).map_or(self.others, |(_, policy)| *policy)
    }
}

impl fmt::Display for ImagePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ImagePolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let policy = |partitions, others| Self { text: text.to_owned(), partitions, others };
        match text {
            "*" => return Ok(policy(Vec::new(), PartitionPolicy::OPEN)),
            "-" | "" => return Ok(policy(Vec::new(), PartitionPolicy::IGNORE)),
            "~" => return Ok(policy(Vec::new(), "absent".parse()?)),
            _ => {}
        }
        let (mut partitions, mut others) = (Vec::new(), None);
        for part in text.split(':').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, flags) = part.split_once('=').ok_or_else(|| {
                Error::new(format!("'{}' has no '='", part.escape_debug()))
                    .with_hint("write PARTITION=FLAG+FLAG…, joined by ':', for example \"root=unprotected\"")
            })?;
            let parsed: PartitionPolicy = flags.parse()?;
            let twice = || Error::new(format!("'{}' has two policies", name.escape_debug()));
            if name.is_empty() {
                others.replace(parsed).map_or(Ok(()), |_| Err(twice()))?;
                continue;
            }
            let known = PARTITIONS.iter().find(|known| **known == name).ok_or_else(|| {
                Error::new(format!("unknown partition '{}'", name.escape_debug()))
                    .with_hint(format!("write one of {}", PARTITIONS.join(", ")))
            })?;
            if partitions.iter().any(|(other, _)| other == known) {
                return Err(twice());
            }
            partitions.push((*known, parsed));
        }
        Ok(policy(partitions, others.unwrap_or(PartitionPolicy::IGNORE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(policy: &str, name: &str) -> PartitionPolicy {
        policy.parse::<ImagePolicy>().unwrap().of(name)
    }

    #[test]
    fn flags_permit_what_they_name() {
        let root = of("root=verity+signed:home=encrypted+absent:=unprotected", "root");
        assert!(root.permits_verity() && !root.permits_unprotected() && !root.permits_absent());
        let home = of("root=verity+signed:home=encrypted+absent:=unprotected", "home");
        assert!(home.permits_encrypted() && home.permits_absent() && !home.permits_unused());
        assert!(of("root=verity:=unprotected", "srv").permits_unprotected());
        // Partitions that are not named are ignored.
        let srv = of("root=verity", "srv");
        assert!(srv.permits_unused() && srv.permits_absent() && !srv.permits_unprotected());
        let open = of("root=read-only-on", "root");
        assert!(open.permits_unprotected() && open.permits_verity() && open.permits_absent());
        assert!(open.permits_read_only(true) && !open.permits_read_only(false));
        assert!(of("*", "root").permits_unprotected());
        assert!(of("-", "root").permits_unused() && !of("-", "root").permits_unprotected());
        assert!(!of("~", "root").permits_unused() && of("~", "root").permits_absent());
    }

    #[test]
    fn invalid_policies_are_refused() {
        for (text, expected) in [
            ("root=nonsense", "unknown flag 'nonsense'"),
            ("boot=open", "unknown partition 'boot'"),
            ("root", "has no '='"),
            ("root=open:root=open", "'root' has two policies"),
            ("=open:=open", "'' has two policies"),
        ] {
            let error = text.parse::<ImagePolicy>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
