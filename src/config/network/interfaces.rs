//! Values of zones and network interfaces.

use crate::config::values::{RawValue, Value, quoted};
use crate::error::Result;
use crate::machine::network::{InterfaceName, InterfaceNames, Zone};

impl Value for Zone {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("the name of a zone")) };
        Self::new(text)
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Value for InterfaceName {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("the name of an interface")) };
        Self::new(text)
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Value for InterfaceNames {
    /// Parses `HOST[:INSIDE]`.
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else {
            return Err(raw.expected("an interface such as \"eth1\" or \"eth1:lan0\""));
        };
        let (host, inside) =
            text.split_once(':').map_or((*text, None), |(host, inside)| (host, Some(inside)));
        Ok(Self { host: InterfaceName::new(host)?, inside: inside.map(InterfaceName::new).transpose()? })
    }

    fn show(&self) -> String {
        let inside = self.inside.as_ref().map_or_else(String::new, |inside| format!(":{inside}"));
        quoted(&format!("{}{inside}", self.host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_valid_in_the_kernel() {
        for good in ["eth0", "a", "exactly-15-char"] {
            assert!(InterfaceName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "a:b", ".", "..", "12", "all", "sixteen-char-abc", "\u{7f}", "%d"] {
            assert!(InterfaceName::new(bad).is_err(), "{bad:?}");
        }
        let read = |text| InterfaceNames::read(&RawValue::Text(text)).map(|names| names.show());
        assert_eq!(read("eth1:lan0").unwrap(), "\"eth1:lan0\"");
        assert_eq!(read("eth1").unwrap(), "\"eth1\"");
        assert!(read("eth1:").is_err() && read(":x").is_err() && read("a:b:c").is_err());
    }

    #[test]
    fn zones_are_labels_and_fit_an_interface_name() {
        for good in ["lan", "a", "twelve-chars", "Lab2"] {
            assert!(Zone::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a.b", "a_b", "thirteen-char", "a b", "\u{fc}"] {
            assert!(Zone::new(bad).is_err(), "{bad:?}");
        }
    }
}
