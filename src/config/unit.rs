//! The unit of the machine and its registration with machined(8), options of `coracle run`.

use super::profile::Profile;
use super::setting::{List, Single, settings};
use super::values::{RawValue, Value, choose, quoted, word_of};
use crate::error::{Error, Result};
use crate::machine::Register;

settings! {
    /// Settings of unit and registration.
    UnitSettings {
        /// Whether the machine is registered with machined(8).
        register: Single<Register> = FlagOnly "register", |_| Register::Auto;
        /// Whether the machine runs in the unit of the caller, instead of a scope of its own.
        keep_unit: Single<bool> = FlagOnly "keep-unit", |profile| profile == Profile::Unit;
        /// The slice of its scope.
        slice: Single<Slice> = FlagOnly "slice";
        /// Further properties of its scope.
        properties: List<Property> = FlagOnly "properties";
    }
}

impl UnitSettings {
    /// Returns the further properties of the scope.
    pub(super) fn properties(&self) -> Vec<String> {
        self.properties.values().map(|property| property.0.clone()).collect()
    }

    /// Returns the slice of the scope, if set.
    pub(super) fn slice(&self) -> Option<String> {
        self.slice.value().map(|slice| slice.0.clone())
    }
}

/// A property of a unit, as `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property(pub String);

impl Value for Property {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a property of a unit")) };
        let name = text.split_once('=').map_or("", |(name, _)| name);
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_name || text.chars().any(char::is_control) {
            return Err(Error::new(format!("{} is not a property of a unit", quoted(text)))
                .with_hint("write NAME=VALUE, for example MemoryMax=512M"));
        }
        Ok(Self((*text).to_owned()))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

const REGISTERS: &[(&str, Register)] =
    &[("auto", Register::Auto), ("yes", Register::Yes), ("no", Register::No)];

impl Value for Register {
    fn read(raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Boolean(true) => Ok(Self::Yes),
            RawValue::Boolean(false) => Ok(Self::No),
            _ => choose(raw, REGISTERS),
        }
    }

    fn show(&self) -> String {
        word_of(self, REGISTERS)
    }
}

/// The unit name of a slice, as in systemd.slice(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice(pub String);

impl Value for Slice {
    /// Parses `machine-web.slice` or `machine-web`.
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("the name of a slice")) };
        let bare = text.strip_suffix(".slice").unwrap_or(text);
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':' | b'\\');
        let labels = bare == "-" || bare.split('-').all(|label| !label.is_empty());
        if bare.is_empty() || bare.len() > 200 || !labels || !bare.bytes().all(fits) {
            return Err(Error::new(format!("{} is not the name of a slice", quoted(text)))
                .with_hint("write a unit name, for example \"machine-web.slice\""));
        }
        Ok(Self(format!("{bare}.slice")))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_and_properties_are_checked() {
        assert_eq!(Slice::read(&RawValue::Text("machine-web")).unwrap().0, "machine-web.slice");
        assert!(Property::read(&RawValue::Text("IPAddressDeny=any")).is_ok());
        for bad in ["", "=", "MemoryMax", "--no=x", "A B=x", "A=\n"] {
            assert!(Property::read(&RawValue::Text(bad)).is_err(), "{bad}");
        }
        for bad in ["", ".slice", "a--b", "-a", "a/b", "web.service"] {
            assert!(Slice::read(&RawValue::Text(bad)).is_err(), "{bad}");
        }
    }
}
