//! A USB device, by the numbers of its vendor and product, and its serial number.

use crate::error::{Error, Result};
use std::fmt;

/// The prefix of its text.
pub(crate) const PREFIX: &str = "usb:";

/// A USB device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbDevice {
    /// The vendor, four hexadecimal digits in lower case.
    pub(crate) vendor: String,
    /// The product, likewise.
    pub(crate) product: String,
    /// The serial number. `None` for all devices of the product.
    pub(crate) serial: Option<String>,
}

impl UsbDevice {
    /// Parses `usb:VENDOR:PRODUCT` or `usb:VENDOR:PRODUCT:SERIAL`.
    ///
    /// # Errors
    /// Another text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let is_id = |text: &&str| text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut parts = text.strip_prefix(PREFIX).unwrap_or_default().splitn(3, ':');
        let ids = parts.next().filter(is_id).zip(parts.next().filter(is_id));
        let serial = parts.next();
        match ids {
            Some((vendor, product)) if serial.is_none_or(|serial| !serial.is_empty()) => Ok(Self {
                vendor: vendor.to_ascii_lowercase(),
                product: product.to_ascii_lowercase(),
                serial: serial.map(str::to_owned),
            }),
            _ => Err(Error::usage(format!("'{}' is not a USB device", text.escape_debug()))
                .with_hint("write usb:VENDOR:PRODUCT or usb:VENDOR:PRODUCT:SERIAL, as lsusb(8) shows them")),
        }
    }
}

impl fmt::Display for UsbDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:{}", self.vendor, self.product)?;
        self.serial.as_ref().map_or(Ok(()), |serial| write!(f, ":{serial}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_parsed_and_shown() {
        for text in ["usb:046d:c52b", "usb:046d:c52b:A:1"] {
            assert_eq!(UsbDevice::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(UsbDevice::parse("usb:046D:C52B").unwrap().to_string(), "usb:046d:c52b");
        for bad in ["", "046d:c52b", "usb:", "usb:046d", "usb:46d:c52b", "usb:046d:xyz1", "usb:046d:c52b:"] {
            assert_eq!(UsbDevice::parse(bad).unwrap_err().exit_status(), 2, "{bad}");
        }
    }
}
