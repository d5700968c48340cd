//! `[users]`: the user namespace and the ownership of files.

use super::profile::Profile;
use super::setting::{Single, settings};
use super::values::{RawValue, Value, choose, quoted, word_of};
use crate::error::{Error, Result};
use crate::machine::users::{Ownership, RANGE_SIZE, Users};

settings! {
    /// Settings of the user namespace.
    UsersSettings {
        /// The user namespace.
        private: Single<Users> = Single "users.private", |profile| if profile.is_of_nspawn() {
            Users::Host
        } else {
            Users::Pick
        };
        /// The mapping of file owners to ids of the machine.
        ownership: Single<OwnershipChoice> = Single "users.ownership";
    }
}

impl UsersSettings {
    /// Decides the ownership `auto`, after the defaults are set: a separate id range is mapped.
    /// systemd-nspawn(1) maps picked ranges only, since the files of a fixed one belong to the range already.
    /// Host ids need no mapping.
    pub(super) fn resolve_ownership(&mut self, profile: Profile) {
        let is_mapped = match self.private.value() {
            Some(Users::Pick) => true,
            Some(Users::Fixed { .. } | Users::OfRoot) => {
                !profile.is_of_nspawn() || self.ownership.value().is_some()
            }
            _ => false,
        };
        let auto = if is_mapped { OwnershipChoice::Map } else { OwnershipChoice::Off };
        if self.ownership.value() == Some(&OwnershipChoice::Auto) {
            let origin = self.ownership.origin();
            self.ownership.set(auto, origin);
        }
        self.ownership.fill(|| auto);
    }

    /// Builds the user namespace and the ownership of files.
    pub(super) fn build(&self) -> Result<(Users, Ownership)> {
        let ownership = match self.ownership.required("users.ownership")? {
            OwnershipChoice::Map | OwnershipChoice::Foreign => Ownership::Map,
            OwnershipChoice::Chown => Ownership::Chown,
            OwnershipChoice::Off | OwnershipChoice::Auto => Ownership::Off,
        };
        Ok((self.private.required("users.private")?, ownership))
    }
}

/// The value of `users.ownership`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnershipChoice {
    /// Mapped if the machine has an id range of its own.
    Auto,
    /// Mapped.
    Map,
    /// Mapped from the range of foreign ids. As the range on the disk is recognised, this is the same as `map`.
    Foreign,
    /// Changed on the disk.
    Chown,
    /// Not mapped.
    Off,
}

const OWNERSHIPS: &[(&str, OwnershipChoice)] = &[
    ("auto", OwnershipChoice::Auto),
    ("map", OwnershipChoice::Map),
    ("foreign", OwnershipChoice::Foreign),
    ("chown", OwnershipChoice::Chown),
    ("off", OwnershipChoice::Off),
];

impl Value for OwnershipChoice {
    fn read(raw: &RawValue) -> Result<Self> {
        choose(raw, OWNERSHIPS)
    }

    fn show(&self) -> String {
        word_of(self, OWNERSHIPS)
    }
}

impl Value for Users {
    fn read(raw: &RawValue) -> Result<Self> {
        let invalid = |shown: &str| {
            Error::new(format!("{shown} is not a user id range")).with_hint(
                "write \"pick\", \"no\", \"identity\", \"yes\" for the range of the root's owner, or the first id and the count, for example \"1000000:65536\"",
            )
        };
        match raw {
            RawValue::Boolean(true) | RawValue::Text("pick") => Ok(Self::Pick),
            RawValue::Boolean(false) | RawValue::Text("no") => Ok(Self::Host),
            RawValue::Text("identity") => Ok(Self::Identity),
            RawValue::Text("yes") => Ok(Self::OfRoot),
            RawValue::Text(text) => {
                let (base, count) = text.split_once(':').unwrap_or((text, ""));
                let base = base.parse::<u32>().map_err(|_| invalid(&quoted(text)))?;
                let count =
                    if count.is_empty() && !text.ends_with(':') { Ok(RANGE_SIZE) } else { count.parse() };
                range(base, count.map_err(|_| invalid(&quoted(text)))?)
            }
            RawValue::Integer(base) => {
                range(u32::try_from(*base).map_err(|_| invalid(&base.to_string()))?, RANGE_SIZE)
            }
            RawValue::Other(_) => Err(raw.expected("a user id range such as \"pick\"")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Pick => quoted("pick"),
            Self::OfRoot => quoted("yes"),
            Self::Host => quoted("no"),
            Self::Identity => quoted("identity"),
            Self::Fixed { base, count } => format!("\"{base}:{count}\""),
        }
    }
}

/// The first id above those of system users, login users, dynamic users and nobody (systemd's UIDS-GIDS).
const FIRST_FREE: u32 = 65536;

/// Returns the range of `count` ids from `base`. It must contain neither a user of the host nor 4294967295,
/// which means "no id".
fn range(base: u32, count: u32) -> Result<Users> {
    if base == 0 {
        return Err(Error::new("a user id range from 0 contains root of the host")
            .with_hint("write \"identity\" to use the ids of the host"));
    }
    if base < FIRST_FREE {
        return Err(Error::new(format!("a user id range from {base} contains ids of users of the host"))
            .with_hint(format!("begin at {FIRST_FREE} or above, for example \"1000000:65536\"")));
    }
    if count == 0 || base.checked_add(count).is_none() {
        return Err(Error::new(format!(
            "the user id range {base}:{count} is empty or ends above 4294967294"
        )));
    }
    Ok(Users::Fixed { base, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ranges_fit_and_exclude_root_of_the_host() {
        let read = |text| Users::read(&RawValue::Text(text));
        assert_eq!(read("1000000").unwrap(), Users::Fixed { base: 1_000_000, count: 65536 });
        assert_eq!(read("65536").unwrap(), Users::Fixed { base: 65536, count: 65536 });
        assert_eq!(read("1000000:1").unwrap(), Users::Fixed { base: 1_000_000, count: 1 });
        assert_eq!(Users::read(&RawValue::Boolean(false)).unwrap(), Users::Host);
        assert_eq!((read("yes").unwrap(), read("pick").unwrap()), (Users::OfRoot, Users::Pick));
        for bad in [
            "",
            "0",
            "-1",
            "5",
            "1000:1",
            "65535",
            "5:",
            "5:0",
            ":5",
            "4294967295:1",
            "99999999999",
            "a:b",
            "5:6:7",
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
