//! The IPv4 prefixes in use on the host, which are not given to machines. Called by the supervisor before
//! addresses are chosen.

use super::{connect, failure, link_by_name};
use crate::error::{Context, Result};
use crate::network::addresses::AddressPrefix;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

/// Returns all IPv4 prefixes in use on the host: its addresses and the destinations of its routes, except for
/// those of the interface `except` (the machine's own, left over). IPv6 is not needed: the prefix of a
/// machine contains 40 bits of the host's identity, and two machines share one only if they share the IPv4
/// prefix.
///
/// # Errors
/// Any error of netlink.
pub(crate) async fn taken_prefixes(except: &str) -> Result<Vec<AddressPrefix>> {
    let handle = connect()?;
    let except = link_by_name(&handle, except).await?.map_or(0, |link| link.header.index);
    let mut taken = addresses(&handle, except).await?;
    taken.extend(destinations(&handle, except).await?);
    Ok(taken)
}

/// Returns the IPv4 addresses of all interfaces but `except`, and their prefixes.
async fn addresses(handle: &Handle, except: u32) -> Result<Vec<AddressPrefix>> {
    let mut taken = Vec::new();
    let mut request = handle.address().get();
    request.message_mut().header.family = AddressFamily::Inet;
    let mut addresses = request.execute();
    let listing = || "cannot list the host's addresses";
    while let Some(message) = addresses.try_next().await.map_err(failure).context(listing)? {
        let length = message.header.prefix_len;
        if message.header.index != except {
            taken.extend(message.attributes.iter().filter_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(AddressPrefix { address: *address, length }),
                AddressAttribute::Local(address) => Some(AddressPrefix::host(*address)),
                _ => None,
            }));
        }
    }
    Ok(taken)
}

/// Returns the destinations of the IPv4 routes, without default routes and routes via `except`.
async fn destinations(handle: &Handle, except: u32) -> Result<Vec<AddressPrefix>> {
    let mut taken = Vec::new();
    let mut routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let listing = || "cannot list the host's routes";
    while let Some(route) = routes.try_next().await.map_err(failure).context(listing)? {
        let length = route.header.destination_prefix_length;
        let out = |index: u32| route.attributes.contains(&RouteAttribute::Oif(index));
        if length == 0 || (except != 0 && out(except)) {
            continue;
        }
        taken.extend(route.attributes.iter().filter_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                Some(AddressPrefix { address: IpAddr::V4(*address), length })
            }
            _ => None,
        }));
    }
    Ok(taken)
}

/// A prefix in use on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsedPrefix {
    /// The network of an address, or the destination of a route.
    pub(crate) prefix: AddressPrefix,
    /// The address of the host in it. `None` for a route.
    pub(crate) local: Option<IpAddr>,
    /// Its interface.
    pub(crate) interface: String,
}

/// Returns all prefixes in use on the host, of both families, with their interfaces: for conflicts with static
/// addresses. Default routes do not count.
///
/// # Errors
/// Any error of netlink.
pub(crate) async fn used_prefixes() -> Result<Vec<UsedPrefix>> {
    let handle = connect()?;
    let names = interface_names(&handle).await?;
    let name = |index: u32| names.get(&index).cloned().unwrap_or_else(|| format!("number {index}"));
    let mut used = Vec::new();
    let mut addresses = handle.address().get().execute();
    let listing = || "cannot list the host's addresses";
    while let Some(message) = addresses.try_next().await.map_err(failure).context(listing)? {
        let length = message.header.prefix_len;
        let find =
            |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
        let peer = find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        let local = find(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        if let Some(address) = peer.or(local) {
            let interface = name(message.header.index);
            used.push(UsedPrefix {
                prefix: AddressPrefix { address, length },
                local: local.or(peer),
                interface,
            });
        }
    }
    let mut routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let listing = || "cannot list the host's routes";
    while let Some(route) = routes.try_next().await.map_err(failure).context(listing)? {
        let length = route.header.destination_prefix_length;
        let out = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let destination = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
            _ => None,
        });
        if let (Some(address), Some(out)) = (destination.filter(|_| length > 0), out) {
            let prefix = AddressPrefix { address, length };
            used.push(UsedPrefix { prefix, local: None, interface: name(out) });
        }
    }
    Ok(used)
}

/// Returns the names of all interfaces by their indices.
async fn interface_names(handle: &Handle) -> Result<HashMap<u32, String>> {
    let mut names = HashMap::new();
    let mut links = handle.link().get().execute();
    let listing = || "cannot list the host's interfaces";
    while let Some(link) = links.try_next().await.map_err(failure).context(listing)? {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        names.extend(name.map(|name| (link.header.index, name)));
    }
    Ok(names)
}
