//! The IPv4 prefixes that the host uses, which no machine can be given. Called by the planning of addresses.

use super::{connect, failure, link_by_name};
use crate::error::{Context, Result};
use crate::network::addresses::Prefix;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr};

/// Every IPv4 prefix the host uses: its addresses and the destinations of its routes, less those of
/// the interface `except` (the machine's own, left over). IPv6 is not asked for: the prefix of a machine
/// is this host's own by forty bits, and one of two machines where their IPv4 prefixes are.
///
/// # Errors
/// Where the kernel does not list them.
pub async fn taken_prefixes(except: &str) -> Result<Vec<Prefix>> {
    let handle = connect()?;
    let except = link_by_name(&handle, except).await?.map_or(0, |link| link.header.index);
    let mut taken = addresses(&handle, except).await?;
    taken.extend(destinations(&handle, except).await?);
    Ok(taken)
}

/// The IPv4 addresses of interfaces other than `except`, and the prefixes they are of.
async fn addresses(handle: &Handle, except: u32) -> Result<Vec<Prefix>> {
    let mut taken = Vec::new();
    let mut request = handle.address().get();
    request.message_mut().header.family = AddressFamily::Inet;
    let mut addresses = request.execute();
    let listing = || "cannot list the host's addresses";
    while let Some(message) = addresses.try_next().await.map_err(failure).context(listing)? {
        let length = message.header.prefix_len;
        if message.header.index != except {
            taken.extend(message.attributes.iter().filter_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(Prefix { address: *address, length }),
                AddressAttribute::Local(address) => Some(Prefix::host(*address)),
                _ => None,
            }));
        }
    }
    Ok(taken)
}

/// Destinations of the IPv4 routes, less default routes and those out of `except`.
async fn destinations(handle: &Handle, except: u32) -> Result<Vec<Prefix>> {
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
                Some(Prefix { address: IpAddr::V4(*address), length })
            }
            _ => None,
        }));
    }
    Ok(taken)
}
