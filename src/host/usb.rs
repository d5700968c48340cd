//! USB devices of the host, by their vendor, product and serial number in sysfs. Called by `control`.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The devices of all buses.
const DEVICES: &str = "/sys/bus/usb/devices";

/// Returns the node of the device `VENDOR:PRODUCT` or `VENDOR:PRODUCT:SERIAL`, with hexadecimal ids.
///
/// # Errors
/// No such device, or several of them.
pub(crate) fn node(wanted: &str) -> Result<PathBuf> {
    find(Path::new(DEVICES), wanted)
}

fn find(devices: &Path, wanted: &str) -> Result<PathBuf> {
    let is_id = |text: &str| text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = wanted.splitn(3, ':');
    let (Some(vendor), Some(product)) =
        (parts.next().filter(|id| is_id(id)), parts.next().filter(|id| is_id(id)))
    else {
        return Err(Error::usage(format!("'usb:{wanted}' is not a USB device"))
            .with_hint("write usb:VENDOR:PRODUCT or usb:VENDOR:PRODUCT:SERIAL, as lsusb(8) shows them"));
    };
    let serial = parts.next();
    let entries = std::fs::read_dir(devices).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| {
            let field = |name: &str| {
                std::fs::read_to_string(entry.path().join(name)).ok().map(|text| text.trim().to_owned())
            };
            let is_it = field("idVendor")?.eq_ignore_ascii_case(vendor)
                && field("idProduct")?.eq_ignore_ascii_case(product)
                && serial.is_none_or(|serial| field("serial").as_deref() == Some(serial));
            let number = |name: &str| field(name)?.parse::<u16>().ok();
            let (bus, device) = (number("busnum")?, number("devnum")?);
            is_it.then(|| PathBuf::from(format!("/dev/bus/usb/{bus:03}/{device:03}")))
        })
        .collect();
    match (found.pop(), found.len()) {
        (Some(node), 0) => Ok(node),
        (Some(_), more) => Err(Error::new(format!("there are {} USB devices '{wanted}'", more + 1))
            .with_hint("write usb:VENDOR:PRODUCT:SERIAL, or the path of one below /dev/bus/usb")),
        (None, _) => Err(Error::new(format!("there is no USB device '{wanted}'"))
            .with_hint("list the devices with lsusb(8)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_their_ids() {
        let root = tempfile::tempdir().unwrap();
        let plug = |name: &str, fields: &[(&str, &str)]| {
            std::fs::create_dir(root.path().join(name)).unwrap();
            for (field, value) in fields {
                std::fs::write(root.path().join(name).join(field), format!("{value}\n")).unwrap();
            }
        };
        let ids = [("idVendor", "046d"), ("idProduct", "c52b"), ("busnum", "3")];
        plug("3-1", &[&ids[..], &[("devnum", "12"), ("serial", "A:1")]].concat());
        plug("3-1:1.0", &[("bInterfaceClass", "03")]);
        let node = |wanted: &str| find(root.path(), wanted);
        assert_eq!(node("046D:c52b").unwrap(), Path::new("/dev/bus/usb/003/012"));
        plug("3-2", &[&ids[..], &[("devnum", "13"), ("serial", "B")]].concat());
        assert!(node("046d:c52b").unwrap_err().to_string().contains("2 USB devices"));
        assert_eq!(node("046d:c52b:A:1").unwrap(), Path::new("/dev/bus/usb/003/012"));
        assert!(node("046d:c52b:C").is_err() && node("046d:0000").is_err());
        for bad in ["", "046d", "46d:c52b", "046d:xyz1"] {
            assert_eq!(node(bad).unwrap_err().exit_status(), 2, "{bad}");
        }
    }
}
