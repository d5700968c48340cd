//! The machine's veth pair: created, configured, moved to a rebooted guest, deleted. Called by the supervisor
//! and by `cleanup` inside one `block_on` of a tokio `current_thread` runtime. Does not expose types of
//! rtnetlink. Must not choose names or addresses: [`super::addresses`] does.

mod assign;
pub(crate) mod ingress;
mod taken;
#[cfg(test)]
mod tests;
pub(super) mod zone_bridge;

use super::addresses::{GUEST_INTERFACE, IPV6_LENGTH, LinkPlan, link_local};
use super::altnames;
use crate::error::{Context, Error, Result};
pub(super) use assign::assign;
use futures_util::{TryStreamExt, future};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteProtocol, RouteType};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};
pub(crate) use taken::{UsedPrefix, taken_prefixes, used_prefixes};
pub(crate) use zone_bridge::{Removed, remove_if_empty};

/// Index of the loopback interface, in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// The host's end of a machine's veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its interface index.
    pub(crate) ifindex: u32,
    /// Index of the interface with the host's addresses: the host's end, or its bridge.
    pub(crate) router_ifindex: u32,
    /// The host's addresses on it, without the IPv6 address if the kernel has no IPv6.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Link {
    /// Creates the pair with the peer, `host0`, directly inside the guest's network namespace, and brings the
    /// host's end up with its addresses. In a zone the bridge is created if it is missing; the caller holds
    /// [`crate::network::zone::lock`].
    ///
    /// # Errors
    /// The failed step; the pair is deleted again.
    pub(crate) async fn create(plan: &LinkPlan, guest_netns: BorrowedFd<'_>) -> Result<Self> {
        let name = &plan.host_interface;
        let handle = connect()?;
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(GUEST_INTERFACE)
            .address(plan.guest_mac.octets().to_vec())
            .build();
        peer.attributes.push(LinkAttribute::NetNsFd(guest_netns.as_raw_fd()));
        let pair = LinkMessageBuilder::<LinkVeth>::new(name, GUEST_INTERFACE)
            .address(plan.host_mac.octets().to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let making = || format!("cannot create the veth pair '{name}'");
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

/// Brings the guest's end up: loopback, link-layer address, addresses, default routes via the host. `host0`
/// must be inside `guest_netns`; the calling thread returns to its own network namespace. Returns the guest's
/// addresses, without IPv6 if the kernel has none.
///
/// # Errors
/// The failed step.
pub(crate) async fn configure_guest(plan: &LinkPlan, guest_netns: BorrowedFd<'_>) -> Result<Vec<IpAddr>> {
    let handle = connect_in(guest_netns)?;
    // Requests without a result for the next one are sent together: the kernel executes them in order.
    let loopback =
        set(&handle, LinkUnspec::new_with_index(LOOPBACK).up().build(), "bring up 'lo' in the machine");
    let ((), link) = future::try_join(loopback, link_by_name(&handle, GUEST_INTERFACE)).await?;
    let link = link.ok_or_else(|| Error::new(format!("'{GUEST_INTERFACE}' disappeared from the machine")))?;
    let index = link.header.index;
    // Before the interface is up, because some drivers accept a link-layer address only then.
    let message = LinkUnspec::new_with_index(index).address(plan.guest_mac.octets().to_vec()).build();
    let address = set(&handle, message, "set the link-layer address of 'host0'");
    let pairs = [IpAddr::V4(plan.ipv4.guest), IpAddr::V6(plan.ipv6.guest)];
    let pairs = if plan.has_ipv6 { &pairs[..] } else { &pairs[..1] };
    let addresses = add_addresses(&handle, index, GUEST_INTERFACE, pairs, plan.ipv4_length);
    let ((), addresses) = future::try_join(address, addresses).await?;
    // The configuration is complete: advertisements are accepted only if the guest itself enables them.
    within(guest_netns, || {
        crate::network::sysctl::disable_accept_ra(GUEST_INTERFACE);
        if !plan.has_ipv6 {
            crate::network::sysctl::disable_ipv6_on_port(GUEST_INTERFACE);
        }
    })?;
    let up = set(&handle, LinkUnspec::new_with_index(index).up().build(), "bring up 'host0' in the machine");
    let has_family = |gateway: &IpAddr| addresses.iter().any(|own| own.is_ipv4() == gateway.is_ipv4());
    let gateways = [IpAddr::V4(plan.ipv4.host), IpAddr::V6(plan.ipv6.host)].into_iter().filter(has_family);
    let routes = gateways.map(|gateway| add_default_route(&handle, index, gateway));
    future::try_join(up, future::try_join_all(routes)).await?;
    Ok(addresses)
}

/// Moves the guest's end from the network namespace of the guest before its reboot to the one after it, as
/// `host0`, independent of its current name. The host's end keeps its index and its addresses. If the pair is
/// gone, or the guest moved its end elsewhere, a new pair is created. Call [`configure_guest`] afterwards.
///
/// # Errors
/// A new pair cannot be created.
pub(crate) async fn move_peer(plan: &LinkPlan, old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<Link> {
    let handle = connect()?;
    match try_move(&handle, plan, old, new).await {
        Ok(true) => return configure_host(&handle, plan).await,
        Ok(false) => {}
        Err(error) => log::debug!("{error}, creating a new pair"),
    }
    remove_left_over(&handle, plan).await?;
    Link::create(plan, new).await
}

/// Accepts replies to the host's `::1` that arrive at the host's end of a link, by a route deleted with the
/// link. For a loopback destination the kernel accepts only a route of the receiving interface; the route of
/// `lo` stays preferred. Packets to `::1` from other hosts are dropped before routing.
///
/// # Errors
/// Any error of netlink.
pub(crate) async fn answer_loopback(interface: &str) -> Result<()> {
    const LOCAL_TABLE: u32 = 255;
    let handle = connect()?;
    let link = link_by_name(&handle, interface).await?;
    let ifindex = link.map_or(0, |link| link.header.index);
    // One metric per interface: two routes of the same metric would become one multipath route.
    let metric = 0x1_0000 + ifindex;
    let route = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::LOCALHOST, 128)
        .output_interface(ifindex)
        .table_id(LOCAL_TABLE)
        .kind(RouteType::Local)
        // A networkd that manages the link removes routes of other protocols.
        .protocol(RouteProtocol::Kernel)
        .priority(metric)
        .build();
    let doing = || "cannot accept replies to ::1";
    handle.route().add(route).replace().execute().await.map_err(failure).context(doing)
}

/// Deletes a host's end and with it the guest's. A missing one is not an error; another kind of interface is
/// not deleted.
///
/// # Errors
/// Any error of netlink.
pub(crate) async fn remove(interface: &str) -> Result<()> {
    remove_with(&connect()?, interface).await
}

/// Returns whether the host has an interface of this name. Unlike a request to rtnetlink it does not wait
/// while the kernel deletes another one.
pub(crate) fn exists(interface: &str) -> bool {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
    let index = socket.and_then(|socket| rustix::net::netdevice::name_to_index(socket, interface));
    !matches!(index, Err(Errno::NODEV))
}

/// Returns the error for an interface in use by another program, possibly by systemd-nspawn for a machine of
/// the same name: its link-layer addresses are the same.
pub(crate) fn belongs_to_another(interface: &str) -> Error {
    Error::new(format!("interface '{interface}' exists and does not belong to the machine"))
        .with_hint(format!("stop the program that uses it, or delete it with 'ip link delete {interface}'"))
}

/// Waits until the kernel has deleted interfaces of a closed network namespace, for this time at most:
/// another process may have the namespace open.
pub(crate) fn wait_until_deleted(interfaces: &[&str], patience: Duration) {
    let since = Instant::now();
    while interfaces.iter().any(|interface| exists(interface)) && since.elapsed() < patience {
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Sets alternative name, addresses and "up" of the host's end; existing settings stay.
async fn configure_host(handle: &Handle, plan: &LinkPlan) -> Result<Link> {
    let name = &plan.host_interface;
    let link = link_by_name(handle, name)
        .await?
        .ok_or_else(|| Error::new(format!("interface '{name}' disappeared during setup")))?;
    let ifindex = link.header.index;
    altnames::add(handle, ifindex, name, plan.altname.iter()).await;
    let (router, router_ifindex) = match &plan.zone {
        Some(zone) => {
            let bridge = zone_bridge::create(handle, &zone.bridge(), Some(plan.router_mac)).await?;
            crate::network::sysctl::disable_ipv6_on_port(name);
            let doing = format!("make '{name}' a port of '{}'", zone.bridge());
            set(handle, LinkUnspec::new_with_index(ifindex).controller(bridge).build(), &doing).await?;
            zone_bridge::enable_hairpin(handle, ifindex, name).await?;
            (zone.bridge(), bridge)
        }
        None => (name.clone(), ifindex),
    };
    crate::network::sysctl::disable_accept_ra(&router);
    // At the port of a zone, not at its bridge: if bridged packets are filtered, a packet to a loopback
    // address that was translated by the host has its original address again when the bridge receives it. ARP
    // in a zone is filtered and counted by the bridge table.
    let sender = plan.zone.is_none().then_some(plan.ipv4.guest);
    if let Err(error) = ingress::protect(name, sender) {
        log::warn!("{error}, ignoring");
    }
    let pairs = [IpAddr::V4(plan.ipv4.host), IpAddr::V6(plan.ipv6.host)];
    let addresses = add_addresses(handle, router_ifindex, &router, &pairs, plan.ipv4_length);
    // The advertised router address: available at once, independent of the host's address generation mode.
    let advertised = [IpAddr::V6(link_local(plan.router_mac))];
    let advertised = add_addresses(handle, router_ifindex, &router, &advertised, plan.ipv4_length);
    let (name_up, router_up) = (format!("bring up '{name}'"), format!("bring up '{router}'"));
    let up = set(handle, LinkUnspec::new_with_index(ifindex).up().build(), &name_up);
    let bridge_up = async {
        if router_ifindex == ifindex {
            return Ok(());
        }
        set(handle, LinkUnspec::new_with_index(router_ifindex).up().build(), &router_up).await
    };
    // Sent together: the kernel executes the requests in order.
    let (addresses, ..) = future::try_join4(addresses, advertised, up, bridge_up).await?;
    Ok(Link { ifindex, router_ifindex, addresses })
}

/// Moves the peer of the host's end from `old` to `new`. Returns `false` if there is no peer to move.
async fn try_move(
    handle: &Handle,
    plan: &LinkPlan,
    old: BorrowedFd<'_>,
    new: BorrowedFd<'_>,
) -> Result<bool> {
    let Some(host_end) = link_by_name(handle, &plan.host_interface).await? else { return Ok(false) };
    let Some(peer_index) = peer_of(&host_end) else { return Ok(false) };
    let guest = connect_in(old)?;
    // The guest may have moved its end elsewhere and have another interface with this index: only a veth with
    // the host's end as peer is moved.
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

/// Deletes the host's end from before a reboot: it is recognised by its link-layer address.
async fn remove_left_over(handle: &Handle, plan: &LinkPlan) -> Result<()> {
    let name = &plan.host_interface;
    let Some(link) = link_by_name(handle, name).await? else { return Ok(()) };
    if !is_veth(&link) || !link.attributes.contains(&LinkAttribute::Address(plan.host_mac.octets().to_vec()))
    {
        return Err(belongs_to_another(name));
    }
    log::debug!("deleting '{name}', left over from the last boot");
    remove_with(handle, name).await
}

/// Deletes a veth by name.
async fn remove_with(handle: &Handle, interface: &str) -> Result<()> {
    let Some(link) = link_by_name(handle, interface).await? else { return Ok(()) };
    if !is_veth(&link) {
        log::warn!("interface '{interface}' is not a veth, not deleting it");
        return Ok(());
    }
    match handle.link().del(link.header.index).execute().await {
        Err(error) if errno(&error) != Some(Errno::NODEV) => {
            Err(failure(error).context(format!("cannot delete interface '{interface}'")))
        }
        _ => Ok(()),
    }
}

/// Adds addresses; existing ones stay. Returns all of them, without IPv6 if the kernel has none.
async fn add_addresses(
    handle: &Handle,
    index: u32,
    name: &str,
    wanted: &[IpAddr],
    ipv4_length: u8,
) -> Result<Vec<IpAddr>> {
    let requests = wanted.iter().map(|&address| {
        let length = if address.is_ipv4() { ipv4_length } else { IPV6_LENGTH };
        let mut request = handle.address().add(index, address, length).replace();
        if address.is_ipv6() {
            // The pair has no other node; without duplicate address detection the address is usable at once.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute()
    });
    let mut added = Vec::new();
    for (&address, result) in wanted.iter().zip(future::join_all(requests).await) {
        match result {
            Ok(()) => added.push(address),
            Err(error) if address.is_ipv6() && is_without_ipv6(&error) => {
                log::debug!("no IPv6 on '{name}': {}, ignoring", failure(error));
            }
            Err(error) => {
                return Err(failure(error).context(format!("cannot add the address {address} to '{name}'")));
            }
        }
    }
    Ok(added)
}

/// Adds the default route of one family and replaces an existing one.
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

/// Returns the link of a name. `None` if there is none.
pub(super) async fn link_by_name(handle: &Handle, name: &str) -> Result<Option<LinkMessage>> {
    first(handle.link().get().match_name(name)).await.context(|| format!("cannot look up interface '{name}'"))
}

/// Returns the link of an index. `None` if there is none.
pub(super) async fn link_by_index(handle: &Handle, index: u32) -> Result<Option<LinkMessage>> {
    first(handle.link().get().match_index(index))
        .await
        .context(|| format!("cannot look up interface {index}"))
}

/// Returns the first link of a reply. `None` if the link does not exist.
async fn first(request: rtnetlink::LinkGetRequest) -> Result<Option<LinkMessage>> {
    let mut links = std::pin::pin!(request.execute());
    match links.try_next().await {
        Ok(link) => Ok(link),
        Err(error) if errno(&error) == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(failure(error)),
    }
}

/// Returns the index of the peer in its own network namespace.
fn peer_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })
}

/// Returns whether a link is one end of a veth pair.
pub(super) fn is_veth(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
        _ => false,
    })
}

/// Opens a netlink connection in the network namespace of the calling thread.
pub(super) fn connect() -> Result<Handle> {
    let (connection, handle, _) =
        rtnetlink::new_connection().context(|| "cannot open a netlink socket".to_owned())?;
    // The task ends when the last handle is dropped.
    tokio::spawn(connection);
    Ok(handle)
}

/// Opens a netlink connection in another network namespace: a socket stays in the namespace of its creation.
pub(super) fn connect_in(netns: BorrowedFd<'_>) -> Result<Handle> {
    within(netns, connect)?
}

/// Runs `act` in another network namespace; the thread returns to its own afterwards.
pub(super) fn within<T>(netns: BorrowedFd<'_>, act: impl FnOnce() -> T) -> Result<T> {
    let own = std::fs::File::open("/proc/thread-self/ns/net")
        .context(|| "cannot open the network namespace of this process".to_owned())?;
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
        .context(|| "cannot enter the machine's network namespace".to_owned())?;
    let result = act();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
        .context(|| "cannot return from the machine's network namespace".to_owned())?;
    Ok(result)
}

/// Returns the errno of an error of rtnetlink.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Errno::from_io_error(&message.to_io()),
        _ => None,
    }
}

/// Returns whether IPv6 is missing in the kernel, disabled (`ipv6.disable=1`), or disabled on the interface.
fn is_without_ipv6(error: &rtnetlink::Error) -> bool {
    matches!(errno(error), Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::ACCESS))
}

/// Converts an error of rtnetlink.
pub(super) fn failure(error: rtnetlink::Error) -> Error {
    errno(&error).map_or_else(|| Error::new(error.to_string()), Error::from)
}
