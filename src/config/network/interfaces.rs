//! Values of zones and network interfaces.

use crate::config::values::{RawValue, Value, quoted};
use crate::error::{Error, Result};
use crate::machine::mac_addr::MacAddr;
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

impl Value for MacAddr {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a link-layer address")) };
        Self::parse(text).ok_or_else(|| {
            Error::new(format!("{} is not a link-layer address of a single interface", quoted(text)))
                .with_hint("write six octets, for example \"02:11:22:33:44:55\"")
        })
    }

    fn show(&self) -> String {
        quoted(&self.octets().map(|octet| format!("{octet:02x}")).join(":"))
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
    fn link_layer_addresses_have_the_notations_of_systemd() {
        let read = |text| MacAddr::read(&RawValue::Text(text)).map(|mac| mac.show());
        for text in ["02:11:22:33:44:55", "2:11:22:33:44:55", "02-11-22-33-44-55", "0211.2233.4455"] {
            assert_eq!(read(text).unwrap(), "\"02:11:22:33:44:55\"", "{text}");
        }
        let bad = ["", "02:11:22:33:44", "02:11:22:33:44:55:66", "02:11:22:33:44:5g", "02:11-22:33:44:55"];
        let not_single = ["00:00:00:00:00:00", "01:00:5e:00:00:01", "0211.2233", "+2:11:22:33:44:55"];
        for text in bad.into_iter().chain(not_single) {
            assert!(read(text).is_err(), "{text}");
        }
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
