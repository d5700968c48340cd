//! `[identity]`: name, host name, machine id and time zone.

use super::profile::Profile;
use super::setting::{Single, settings};
use super::values::{RawValue, Value, quoted, words};
use crate::error::{Error, Result};
use crate::machine::id128::Id128;
use crate::machine::identity::{Identity, Timezone};
use crate::machine::name::Name;

settings! {
    /// Settings of the identity.
    IdentitySettings {
        /// The kernel host name.
        hostname: Single<Hostname> = Single "identity.hostname";
        /// The machine id.
        uuid: Single<Id128> = Single "identity.uuid";
        /// The treatment of the time zone.
        timezone: Single<Timezone> = Single "identity.timezone", |profile| if profile == Profile::Nspawn {
            Timezone::Auto
        } else {
            Timezone::Off
        };
        /// The name of the machine.
        name: Single<Name> = FlagOnly "name";
    }
}

impl IdentitySettings {
    /// Builds the identity of the machine.
    pub(super) fn build(&self) -> Identity {
        Identity {
            hostname: self.hostname.value().map(|hostname| hostname.0.clone()),
            uuid: self.uuid.value().copied(),
            timezone: self.timezone.value().copied().unwrap_or_default(),
        }
    }
}

words!(
    Timezone,
    [
        ("off", Timezone::Off),
        ("copy", Timezone::Copy),
        ("bind", Timezone::Bind),
        ("symlink", Timezone::Symlink),
        ("delete", Timezone::Delete),
        ("auto", Timezone::Auto),
    ]
);

impl Value for Name {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a machine name")) };
        Self::new(text)
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

/// A host name of hostname(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname(pub String);

impl Value for Hostname {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a host name")) };
        // machined's rule for names is the rule of hostname(7).
        if Name::new(text).is_err() {
            return Err(Error::new(format!("{} is not a host name", quoted(text)))
                .with_hint("use letters, digits, '-' and single dots, at most 64 characters"));
        }
        Ok(Self((*text).to_owned()))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

impl Value for Id128 {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a machine id")) };
        let invalid = |reason: &str| {
            Error::new(format!("{} is not a machine id: {reason}", quoted(text)))
                .with_hint("create one with 'systemd-id128 new'")
        };
        match text.parse() {
            Ok(Self::NULL) => Err(invalid("it is zero")),
            Ok(id) => Ok(id),
            Err(error) => Err(invalid(&error.to_string())),
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_ids_have_32_hexadecimal_digits() {
        let id = Id128::read(&RawValue::Text("6d1d3ac0-8d0f-4d2a-9a0c-0123456789ab")).unwrap();
        assert_eq!(id.show(), "\"6d1d3ac08d0f4d2a9a0c0123456789ab\"");
        for bad in ["", "0", &"0".repeat(32), &"g".repeat(32), &"é".repeat(16)] {
            assert!(Id128::read(&RawValue::Text(bad)).is_err(), "{bad}");
        }
    }
}
