//! The machine's veth pair: made, configured, moved to a rebooted guest, removed. Called by the
//! supervisor and by `cleanup` inside one `block_on` of a tokio `current_thread` runtime. Nothing
//! of rtnetlink leaks out of here. Must not decide names or addresses: [`super::addresses`] does.

pub(super) mod bridge;
pub mod ingress;
mod taken;
#[cfg(test)]
mod tests;

use super::addresses::{GUEST_INTERFACE, IPV6_LENGTH, Plan, link_local};
use crate::error::{Context, Error, Result};
pub use bridge::{Removed, remove_if_empty};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteProtocol, RouteType};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
pub use taken::taken_prefixes;

/// Index of the loopback interface, in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// The host's end of a machine's veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its interface index.
    pub ifindex: u32,
    /// Index of the interface that has the host's addresses: itself, or the bridge it is a port of.
    pub router_ifindex: u32,
    /// The host's addresses there, without the IPv6 one where the kernel has no IPv6.
    pub addresses: Vec<IpAddr>,
}

impl Link {
    /// Makes the pair with the peer, `host0`, directly inside the guest's network namespace, and
    /// brings the host's end up with its addresses. A link that an earlier run of the same machine
    /// left over is replaced. In a zone its bridge is made where it is not there; nobody else may make
    /// or remove it meanwhile ([`crate::network::zone::lock`]).
    ///
    /// # Errors
    /// Names the step that failed; what was made by then is removed.
    pub async fn create(plan: &Plan, guest_netns: BorrowedFd<'_>) -> Result<Self> {
        let name = &plan.host_interface;
        let handle = connect()?;
        remove_left_over(&handle, plan).await?;
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(GUEST_INTERFACE)
            .address(plan.guest_mac.to_vec())
            .build();
        peer.attributes.push(LinkAttribute::NetNsFd(guest_netns.as_raw_fd()));
        let pair = LinkMessageBuilder::<LinkVeth>::new(name, GUEST_INTERFACE)
            .address(plan.host_mac.to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let making = || format!("cannot make the veth pair '{name}'");
        handle.link().add(pair).execute().await.map_err(failure).context(making)?;
        match configure_host(&handle, plan).await {
            Ok(link) => Ok(link),
            Err(error) => {
                if let Err(again) = remove_with(&handle, name).await {
                    log::warn!("{again}, ignoring");
                }
                Err(error)
            }
        }
    }
}

/// Brings the guest's end up: loopback, link-layer address, addresses, default routes via the host.
/// Call it when `host0` is inside `guest_netns`; the calling thread comes back to its own network
/// namespace. Returns the addresses the guest has got: without IPv6 in the kernel, that part is
/// left out.
///
/// # Errors
/// Names the step that failed.
pub async fn configure_guest(plan: &Plan, guest_netns: BorrowedFd<'_>) -> Result<Vec<IpAddr>> {
    let handle = connect_in(guest_netns)?;
    set(&handle, LinkUnspec::new_with_index(LOOPBACK).up().build(), "bring up 'lo' in the machine").await?;
    let link = link_by_name(&handle, GUEST_INTERFACE)
        .await?
        .ok_or_else(|| Error::new(format!("'{GUEST_INTERFACE}' vanished from the machine")))?;
    let index = link.header.index;
    // Before it is up, because some drivers take a link-layer address only then.
    let message = LinkUnspec::new_with_index(index).address(plan.guest_mac.to_vec()).build();
    set(&handle, message, "set the link-layer address of 'host0'").await?;
    let pairs = [IpAddr::V4(plan.ipv4.guest), IpAddr::V6(plan.ipv6.guest)];
    let pairs = if plan.has_ipv6 { &pairs[..] } else { &pairs[..1] };
    let addresses = add_addresses(&handle, index, GUEST_INTERFACE, pairs, plan.ipv4_length).await?;
    // It has what it needs: only a guest that asks itself is to heed advertisements.
    within(guest_netns, || {
        crate::network::sysctl::distrust(GUEST_INTERFACE);
        if !plan.has_ipv6 {
            crate::network::sysctl::disable_ipv6(GUEST_INTERFACE);
        }
    })?;
    set(&handle, LinkUnspec::new_with_index(index).up().build(), "bring up 'host0' in the machine").await?;
    for gateway in [IpAddr::V4(plan.ipv4.host), IpAddr::V6(plan.ipv6.host)] {
        if addresses.iter().any(|address| address.is_ipv4() == gateway.is_ipv4()) {
            add_default_route(&handle, index, gateway).await?;
        }
    }
    Ok(addresses)
}

/// Brings the loopback interface of a machine up that has no link.
///
/// # Errors
/// Any error of netlink.
pub async fn bring_up_loopback(guest_netns: BorrowedFd<'_>) -> Result<()> {
    let handle = connect_in(guest_netns)?;
    set(&handle, LinkUnspec::new_with_index(LOOPBACK).up().build(), "bring up 'lo' in the machine").await
}

/// Brings the guest's end from the network namespace of the guest before its reboot to that of the
/// one after it, as `host0`, whatever the guest called it. The host's end keeps its index and its
/// addresses. Where the pair is gone, or the guest put its end elsewhere, a new one is made.
/// [`configure_guest`] comes next.
///
/// # Errors
/// Where a new pair cannot be made.
pub async fn move_peer(plan: &Plan, old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<Link> {
    let handle = connect()?;
    match try_move(&handle, plan, old, new).await {
        Ok(true) => configure_host(&handle, plan).await,
        Ok(false) => Link::create(plan, new).await,
        Err(error) => {
            log::debug!("{error}, making a new pair, ignoring");
            Link::create(plan, new).await
        }
    }
}

/// Lets answers to the host's `::1` in by the host's end of a link, which goes with it. Where a
/// destination is loopback the kernel takes a route of the interface the packet came by only; that
/// of `lo` stays the preferred one. What is sent to `::1` over a wire is dropped before routing.
///
/// # Errors
/// Where the kernel refuses.
pub async fn answer_loopback(interface: &str) -> Result<()> {
    const LOCAL_TABLE: u32 = 255;
    let handle = connect()?;
    let link = link_by_name(&handle, interface).await?;
    let ifindex = link.map_or(0, |link| link.header.index);
    // A metric for each interface: two routes of one metric would be one with two ways.
    let metric = 0x1_0000 + ifindex;
    let route = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::LOCALHOST, 128)
        .output_interface(ifindex)
        .table_id(LOCAL_TABLE)
        .kind(RouteType::Local)
        // A networkd that manages the link takes away what others than the kernel have made.
        .protocol(RouteProtocol::Kernel)
        .priority(metric)
        .build();
    let doing = || "cannot let answers to ::1 in";
    handle.route().add(route).replace().execute().await.map_err(failure).context(doing)
}

/// Removes a host's end and with it the guest's. One that is not there is fine; one that is no
/// veth is left alone.
///
/// # Errors
/// Where the kernel refuses.
pub async fn remove(interface: &str) -> Result<()> {
    remove_with(&connect()?, interface).await
}

/// Alternative name, addresses and "up" of the host's end; what it has already stays.
async fn configure_host(handle: &Handle, plan: &Plan) -> Result<Link> {
    let name = &plan.host_interface;
    let link = link_by_name(handle, name)
        .await?
        .ok_or_else(|| Error::new(format!("interface '{name}' vanished while it was set up")))?;
    let ifindex = link.header.index;
    if let Some(altname) = &plan.altname {
        let request = handle.link().property_add(ifindex).alt_ifname(&[altname]);
        // KERNEL(5.5): older ones have no alternative names; it is a convenience alone.
        if let Err(error) = request.execute().await {
            log::debug!("cannot give '{name}' the name '{altname}': {}, ignoring", failure(error));
        }
    }
    let (router, router_ifindex) = match &plan.zone {
        Some(zone) => {
            let bridge = bridge::raise(handle, &zone.bridge(), plan.router_mac).await?;
            crate::network::sysctl::disable_ipv6(name);
            let doing = format!("make '{name}' a port of '{}'", zone.bridge());
            set(handle, LinkUnspec::new_with_index(ifindex).controller(bridge).build(), &doing).await?;
            bridge::reflect(handle, ifindex, name).await?;
            (zone.bridge(), bridge)
        }
        None => (name.clone(), ifindex),
    };
    crate::network::sysctl::distrust(&router);
    // At the port of a zone, not at its bridge: where bridges are filtered, a packet for a loopback address that the
    // host itself translated has its address again when the bridge receives it.
    // ARP in a zone is judged, and counted, by the bridge table.
    let sender = plan.zone.is_none().then_some(plan.ipv4.guest);
    if let Err(error) = ingress::protect(name, sender) {
        log::warn!("{error}, ignoring");
    }
    let pairs = [IpAddr::V4(plan.ipv4.host), IpAddr::V6(plan.ipv6.host)];
    let addresses = add_addresses(handle, router_ifindex, &router, &pairs, plan.ipv4_length).await?;
    // The router that is advertised: there at once, whatever the host makes such addresses of.
    let advertised = [IpAddr::V6(link_local(plan.router_mac))];
    add_addresses(handle, router_ifindex, &router, &advertised, plan.ipv4_length).await?;
    set(handle, LinkUnspec::new_with_index(ifindex).up().build(), &format!("bring up '{name}'")).await?;
    if router_ifindex != ifindex {
        let doing = format!("bring up '{router}'");
        set(handle, LinkUnspec::new_with_index(router_ifindex).up().build(), &doing).await?;
    }
    Ok(Link { ifindex, router_ifindex, addresses })
}

/// Moves the peer of the host's end from `old` to `new`. Says no where there is nothing to move.
async fn try_move(handle: &Handle, plan: &Plan, old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<bool> {
    let Some(host_end) = link_by_name(handle, &plan.host_interface).await? else { return Ok(false) };
    let Some(peer_index) = peer_of(&host_end) else { return Ok(false) };
    let guest = connect_in(old)?;
    // The guest may have moved its end on and have something else under this index: only a veth
    // whose peer is our end is taken.
    let Some(peer) = link_by_index(&guest, peer_index).await? else { return Ok(false) };
    if !is_veth(&peer) || peer_of(&peer) != Some(host_end.header.index) {
        return Ok(false);
    }
    set(&guest, LinkUnspec::new_with_index(peer_index).down().build(), "take the machine's link down")
        .await?;
    let message =
        LinkUnspec::new_with_index(peer_index).name(GUEST_INTERFACE).setns_by_fd(new.as_raw_fd()).build();
    set(&guest, message, "move the machine's link to the rebooted machine").await?;
    Ok(true)
}

/// Removes the host's end that an earlier run left over: it has our link-layer address, which
/// nobody else's interface has.
async fn remove_left_over(handle: &Handle, plan: &Plan) -> Result<()> {
    let name = &plan.host_interface;
    let Some(link) = link_by_name(handle, name).await? else { return Ok(()) };
    if !is_veth(&link) || !link.attributes.contains(&LinkAttribute::Address(plan.host_mac.to_vec())) {
        return Err(Error::new(format!(
            "interface '{name}' exists and is not of machine '{}'",
            plan.machine
        ))
        .with_hint(format!("stop what made it, or remove it with 'ip link delete {name}'")));
    }
    log::debug!("removing '{name}', left over by an earlier run");
    remove_with(handle, name).await
}

/// Removes a veth by name.
async fn remove_with(handle: &Handle, interface: &str) -> Result<()> {
    let Some(link) = link_by_name(handle, interface).await? else { return Ok(()) };
    if !is_veth(&link) {
        log::warn!("interface '{interface}' is no veth, not removed, ignoring");
        return Ok(());
    }
    match handle.link().del(link.header.index).execute().await {
        Err(error) if errno(&error) != Some(Errno::NODEV) => {
            Err(failure(error).context(format!("cannot remove interface '{interface}'")))
        }
        _ => Ok(()),
    }
}

/// Adds addresses; those that are there stay. Returns all but IPv6 where the kernel has none.
async fn add_addresses(
    handle: &Handle,
    index: u32,
    name: &str,
    wanted: &[IpAddr],
    ipv4_length: u8,
) -> Result<Vec<IpAddr>> {
    let mut added = Vec::new();
    for &address in wanted {
        let length = if address.is_ipv4() { ipv4_length } else { IPV6_LENGTH };
        let mut request = handle.address().add(index, address, length).replace();
        if address.is_ipv6() {
            // The pair has no one else on it; without detection the address works at once.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        match request.execute().await {
            Ok(()) => added.push(address),
            Err(error) if address.is_ipv6() && is_without_ipv6(&error) => {
                log::debug!("no IPv6 on '{name}': {}, ignoring", failure(error));
            }
            Err(error) => {
                return Err(failure(error).context(format!("cannot give '{name}' the address {address}")));
            }
        }
    }
    Ok(added)
}

/// Adds the default route of one family, over one that is there.
async fn add_default_route(handle: &Handle, index: u32, gateway: IpAddr) -> Result<()> {
    let message = match gateway {
        IpAddr::V4(gateway) => {
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build()
        }
        IpAddr::V6(gateway) => {
            RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(index).build()
        }
    };
    let doing = || format!("cannot set the machine's default route via {gateway}");
    handle.route().add(message).replace().execute().await.map_err(failure).context(doing)
}

/// Changes a link; `doing` completes "cannot …".
pub(super) async fn set(handle: &Handle, message: LinkMessage, doing: &str) -> Result<()> {
    handle.link().set(message).execute().await.map_err(failure).context(|| format!("cannot {doing}"))
}

/// The link of a name, or nothing.
pub(super) async fn link_by_name(handle: &Handle, name: &str) -> Result<Option<LinkMessage>> {
    first(handle.link().get().match_name(name)).await.context(|| format!("cannot look up interface '{name}'"))
}

/// The link of an index, or nothing.
pub(super) async fn link_by_index(handle: &Handle, index: u32) -> Result<Option<LinkMessage>> {
    first(handle.link().get().match_index(index))
        .await
        .context(|| format!("cannot look up interface {index}"))
}

/// The first link of an answer; no such link is none.
async fn first(request: rtnetlink::LinkGetRequest) -> Result<Option<LinkMessage>> {
    let mut links = std::pin::pin!(request.execute());
    match links.try_next().await {
        Ok(link) => Ok(link),
        Err(error) if errno(&error) == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(failure(error)),
    }
}

/// The index that the other end of a pair has in its own network namespace.
fn peer_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })
}

/// Whether a link is one end of a veth pair.
pub(super) fn is_veth(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
        _ => false,
    })
}

/// A connection to the kernel for the calling thread's network namespace.
pub(super) fn connect() -> Result<Handle> {
    let (connection, handle, _) =
        rtnetlink::new_connection().context(|| "cannot open a netlink socket".to_owned())?;
    // It ends by itself when the last handle is dropped.
    tokio::spawn(connection);
    Ok(handle)
}

/// A connection for another network namespace: a socket stays in the one it was opened in.
pub(super) fn connect_in(netns: BorrowedFd<'_>) -> Result<Handle> {
    within(netns, connect)?
}

/// Does something in another network namespace; the thread is away for that only.
pub(super) fn within<T>(netns: BorrowedFd<'_>, act: impl FnOnce() -> T) -> Result<T> {
    let own = std::fs::File::open("/proc/thread-self/ns/net")
        .context(|| "cannot open our own network namespace".to_owned())?;
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
        .context(|| "cannot enter the machine's network namespace".to_owned())?;
    let result = act();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
        .context(|| "cannot return from the machine's network namespace".to_owned())?;
    Ok(result)
}

/// The kernel's error number in an error of rtnetlink.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Errno::from_io_error(&message.to_io()),
        _ => None,
    }
}

/// Whether IPv6 is not built in, switched off (`ipv6.disable=1`), or off on the interface.
fn is_without_ipv6(error: &rtnetlink::Error) -> bool {
    matches!(errno(error), Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::ACCESS))
}

/// An error of rtnetlink as ours.
pub(super) fn failure(error: rtnetlink::Error) -> Error {
    errno(&error).map_or_else(|| Error::new(error.to_string()), Error::from)
}
