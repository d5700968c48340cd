//! Alternative names of interfaces. KERNEL(5.5): older kernels have none; KERNEL(6.7): older kernels lose
//! them when an interface moves to another network namespace. A failure is not an error. Called by `veth` and
//! `interfaces`.

use super::veth::{errno, failure};
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, Prop};
use rustix::io::Errno;

/// Returns the name of a link.
pub(super) fn main_name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// Returns the alternative names of a link.
pub(super) fn of(link: &LinkMessage) -> Vec<String> {
    let lists = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::PropList(list) => Some(list),
        _ => None,
    });
    let name = |property: &Prop| match property {
        Prop::AltIfName(name) => Some(name.clone()),
        _ => None,
    };
    lists.flatten().filter_map(name).collect()
}

/// Adds names to the link `interface`.
pub(super) async fn add(handle: &Handle, index: u32, interface: &str, names: impl Iterator<Item = &String>) {
    for name in names {
        match handle.link().property_add(index).alt_ifname(&[name]).execute().await {
            Err(error) if errno(&error) != Some(Errno::EXIST) => {
                let error = failure(error);
                log::debug!("cannot add the alternative name '{name}' to '{interface}': {error}, ignoring");
            }
            _ => {}
        }
    }
}

/// Removes names from a link.
pub(super) async fn remove(handle: &Handle, index: u32, names: impl Iterator<Item = String>) {
    for name in names {
        if let Err(error) = handle.link().property_del(index).alt_ifname(&[&name]).execute().await {
            log::debug!("cannot remove the alternative name '{name}': {}, ignoring", failure(error));
        }
    }
}
