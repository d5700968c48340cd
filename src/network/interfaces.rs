//! Interfaces of a machine beside its link: further veth pairs, the port of a bridge of the host, macvlan and
//! ipvlan interfaces, and moved interfaces of the host. Called by the supervisor, which writes them to the
//! state record first, and by `cleanup`. `run` selects them; Coracle configures static addresses on the first
//! one of the mode only.

mod return_to_host;
mod static_addresses;

pub(crate) use return_to_host::return_to_host;

use super::addresses::{
    EXTRA_GUEST_MAC_KEY, EXTRA_HOST_MAC_KEY, GUEST_INTERFACE, GUEST_MAC_KEY, HOST_MAC_KEY, MACVLAN_MAC_KEY,
    abridged, host_interface_name, mac,
};
use super::altnames;
use super::veth::{LOOPBACK, connect, connect_in, errno, failure, is_veth, link_by_name, set, zone_bridge};
use crate::error::{Context, Error, Result};
use crate::machine::id128::Id128;
use crate::machine::mac_addr::MacAddr;
use crate::machine::name::Name;
use crate::machine::network::{Addresses, InterfaceKind, Mode, Network, Zone};
use crate::machine::static_address::StaticAddress;
use crate::network::firewall::Extra;
use crate::network::veth;
use rtnetlink::packet_route::link::{
    InfoData, InfoVeth, IpVlanMode, LinkAttribute, LinkMessage, MacVlanMode,
};
use rtnetlink::{Handle, LinkIpVlan, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// An interface of a machine beside its link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExtraInterface {
    /// The kind of interface.
    kind: InterfaceKind,
    /// Its name on the host, or the name of its lower interface.
    host: String,
    /// The unabridged name of the host's end.
    altname: Option<String>,
    /// The alternative names of a moved interface.
    #[serde(default)]
    altnames: Vec<String>,
    /// Its name inside the machine.
    inside: String,
    /// The bridge of the host with the host's end as a port.
    bridge: Option<String>,
    /// Whether a missing bridge is created: the bridge of a zone.
    #[serde(default)]
    creates_bridge: bool,
    /// Whether it has the state down and no filter, unless it is the port of a bridge: the guest and other
    /// programs of the host configure it.
    #[serde(default)]
    is_plain: bool,
    /// Link-layer address of the host's end, which identifies it as created by Coracle.
    host_mac: MacAddr,
    /// Link-layer address inside the machine.
    guest_mac: MacAddr,
    /// Its index inside the machine, for an interface that is returned to the host.
    index: Option<u32>,
    /// Whether the host forwards packets from it.
    #[serde(default)]
    is_routed: bool,
    /// Its static addresses.
    #[serde(default)]
    addresses: Vec<StaticAddress>,
    /// The routers of their networks.
    #[serde(default)]
    gateways: Vec<IpAddr>,
}

impl ExtraInterface {
    /// Returns the interfaces of a machine, the port of a bridge first.
    pub(crate) fn all(machine: &Name, network: &Network, host_id: impl FnOnce() -> Id128) -> Vec<Self> {
        let has_port = network.mode == Mode::Bridge || network.has_plain_link();
        if !has_port && network.interfaces.is_empty() {
            return Vec::new();
        }
        let host_id = host_id();
        let interface = |kind, host: &str, inside: String, [host_mac, guest_mac]: [MacAddr; 2]| Self {
            kind,
            host: host.to_owned(),
            altname: None,
            altnames: Vec::new(),
            host_mac,
            guest_mac,
            inside,
            bridge: None,
            creates_bridge: false,
            is_plain: network.addresses == Addresses::None,
            index: None,
            is_routed: network.veth_extra_routed,
            addresses: Vec::new(),
            gateways: Vec::new(),
        };
        let mut interfaces = Vec::new();
        if has_port {
            let zone = network.zone.as_ref().map(Zone::bridge);
            let creates_bridge = zone.is_some();
            let bridge = zone.or_else(|| network.bridge.as_ref().map(ToString::to_string));
            let prefix = if bridge.is_some() { "vb-" } else { "ve-" };
            let (host, altname) = host_interface_name(prefix, machine);
            // The same as for a machine with a link: a DHCP server recognises the machine by it.
            let [host_mac, guest_mac] =
                [HOST_MAC_KEY, GUEST_MAC_KEY].map(|key| mac(key, host_id, machine, 0));
            let macs = [host_mac, network.mac.unwrap_or(guest_mac)];
            let port = interface(InterfaceKind::Veth, &host, GUEST_INTERFACE.to_owned(), macs);
            interfaces.push(Self { altname, bridge, creates_bridge, ..port });
        }
        let mut counts = [0_u64; 2];
        interfaces.extend(network.interfaces.iter().map(|further| {
            let host = further.names.host.as_str();
            let inside = further.names.inside.as_ref().map(ToString::to_string);
            let inside = inside.unwrap_or_else(|| match further.kind {
                InterfaceKind::Macvlan => abridged(format!("mv-{host}")).0,
                InterfaceKind::Ipvlan => abridged(format!("iv-{host}")).0,
                InterfaceKind::Veth | InterfaceKind::Moved => host.to_owned(),
            });
            let (keys, count) = match further.kind {
                InterfaceKind::Veth => ([EXTRA_HOST_MAC_KEY, EXTRA_GUEST_MAC_KEY], &mut counts[0]),
                _ => ([MACVLAN_MAC_KEY; 2], &mut counts[1]),
            };
            let macs = keys.map(|key| mac(key, host_id, machine, *count));
            *count += u64::from(matches!(further.kind, InterfaceKind::Veth | InterfaceKind::Macvlan));
            interface(further.kind, host, inside, macs)
        }));
        Self::give_static(&mut interfaces, network);
        interfaces
    }

    /// Returns the name of the host's end. `None` if the interface has no end on the host.
    pub(crate) fn host_end(&self) -> Option<&str> {
        (self.kind == InterfaceKind::Veth).then_some(self.host.as_str())
    }

    /// Returns the host's end for the firewall. `None` if its packets are not filtered.
    pub(crate) fn extra(&self) -> Option<Extra> {
        let name = self.host_end().filter(|_| !self.is_plain)?;
        match self.bridge {
            Some(_) => Some(Extra::port(name)),
            None => (!self.is_routed).then(|| Extra::link(name)),
        }
    }

    /// Returns its name inside and the interface of the host that connects it with a network outside. `None`
    /// for one without such a network.
    pub(crate) fn outside_network(&self) -> Option<(&str, &str)> {
        let outside = match self.kind {
            InterfaceKind::Macvlan | InterfaceKind::Ipvlan => Some(&self.host),
            InterfaceKind::Veth => self.bridge.as_ref().filter(|_| !self.creates_bridge),
            InterfaceKind::Moved => None,
        };
        outside.map(|outside| (self.inside.as_str(), outside.as_str()))
    }

    /// Returns the word for its kind.
    pub(crate) fn word(&self) -> &'static str {
        match self.kind {
            InterfaceKind::Veth if self.creates_bridge => "zone",
            InterfaceKind::Veth if self.bridge.is_some() => "bridge",
            InterfaceKind::Veth => "veth",
            InterfaceKind::Macvlan => "macvlan",
            InterfaceKind::Ipvlan => "ipvlan",
            InterfaceKind::Moved => "interface",
        }
    }

    /// Returns the bridge, or else the interface, that it is connected to on the host.
    pub(crate) fn peer(&self) -> &str {
        self.bridge.as_ref().unwrap_or(&self.host)
    }

    /// Returns its name inside.
    pub(crate) fn inside(&self) -> &str {
        &self.inside
    }

    /// Returns whether the guest and other programs of the host configure it.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Returns whether it is the port of a zone's bridge, which has no addresses from Coracle.
    pub(crate) fn is_plain_port_of_zone(&self) -> bool {
        self.creates_bridge
    }

    /// Uses the name of an interface of the host instead of an alternative one: this is the name inside too,
    /// if no other is defined.
    fn use_name(&mut self, name: &str) {
        if self.inside == self.host {
            name.clone_into(&mut self.inside);
        }
        name.clone_into(&mut self.host);
    }

    /// Uses the name that the interface had at the boot before, if the definition has an alternative one.
    pub(crate) fn use_name_of(&mut self, before: &[Self]) {
        let is_same = |old: &&Self| old.kind == self.kind && old.altnames.contains(&self.host);
        if let Some(old) = before.iter().find(is_same) {
            self.use_name(&old.host);
        }
    }

    /// Forgets the index, before a move to another network namespace.
    pub(crate) fn forget_index(&mut self) {
        self.index = None;
    }

    /// Returns whether the interface belongs to the host or has a lower interface of the host: then it must
    /// be returned or deleted.
    pub(crate) fn is_borrowed_from_host(&self) -> bool {
        self.kind != InterfaceKind::Veth
    }
}

/// The notation of the verb `network`.
impl std::fmt::Display for ExtraInterface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.word(), self.peer(), self.inside)
    }
}

/// Checks the interfaces before any is created, and finds the names of those with an alternative one.
///
/// # Errors
/// A missing interface of the host, or a name in use.
pub(crate) async fn check(interfaces: &mut [ExtraInterface]) -> Result<()> {
    let handle = connect()?;
    for interface in interfaces {
        let name = &interface.host;
        let there = link_by_name(&handle, name).await?;
        if let Some(bridge) = interface.bridge.as_ref().filter(|_| !interface.creates_bridge) {
            zone_bridge::find(&handle, bridge).await?;
        }
        match (interface.kind, there) {
            (InterfaceKind::Veth, Some(link)) if !is_ours(interface, &link) => {
                return Err(veth::belongs_to_another(name));
            }
            (InterfaceKind::Moved, Some(link)) if link.header.index == LOOPBACK => {
                return Err(Error::new("the loopback interface of the host cannot be moved"));
            }
            (InterfaceKind::Moved, Some(link)) => {
                if altnames::of(&link).contains(&interface.inside) {
                    // No interface gets a name that it has as an alternative one.
                    interface.inside.clone_from(&interface.host);
                }
                if let Some(name) = altnames::main_name(&link) {
                    interface.use_name(name);
                }
            }
            (InterfaceKind::Veth, _) | (_, Some(_)) => {}
            (_, None) => {
                return Err(
                    Error::new(format!("the host has no interface '{name}'")).with_hint("see 'ip link'")
                );
            }
        }
    }
    Ok(())
}

/// Creates an interface or moves it into the machine, and brings it up there unless it is plain. Returns the
/// index of the host's end; of its bridge for the plain port of one.
///
/// For the port of a zone the caller holds [`crate::network::zone::lock`].
///
/// # Errors
/// The failed step.
pub(crate) async fn connect_interface(
    interface: &mut ExtraInterface,
    guest_netns: BorrowedFd<'_>,
) -> Result<Option<u32>> {
    let host = connect()?;
    let guest = connect_in(guest_netns)?;
    set(&guest, LinkUnspec::new_with_index(LOOPBACK).up().build(), "bring up 'lo' in the machine").await?;
    let ifindex = match interface.kind {
        InterfaceKind::Veth => Some(pair(&host, interface, guest_netns).await?),
        InterfaceKind::Macvlan | InterfaceKind::Ipvlan => {
            create_on(&host, interface, guest_netns).await?;
            None
        }
        InterfaceKind::Moved => {
            let link = required_link(&host, &interface.host).await?;
            interface.altnames = altnames::of(&link);
            let link = link.header.index;
            let message = LinkUnspec::new_with_index(link)
                .name(&interface.inside)
                .setns_by_fd(guest_netns.as_raw_fd())
                .build();
            // An interface cannot be renamed while it is up.
            let down = LinkUnspec::new_with_index(link).down().build();
            set(&host, down, &format!("take '{}' down", interface.host)).await?;
            set(&host, message, &format!("move '{}' into the machine", interface.host)).await?;
            None
        }
    };
    let inside = required_link(&guest, &interface.inside).await?;
    let present = altnames::of(&inside);
    let inside = inside.header.index;
    let missing = interface.altnames.iter().filter(|name| !present.contains(name));
    altnames::add(&guest, inside, &interface.inside, missing).await;
    interface.index = Some(inside);
    if interface.is_plain {
        return Ok(ifindex);
    }
    let up = LinkUnspec::new_with_index(inside).up().build();
    // An interface without carrier, or with a driver that needs configuration first, is brought up by the
    // guest.
    if let Err(error) = set(&guest, up, &format!("bring up '{}' in the machine", interface.inside)).await {
        log::warn!("{error}, ignoring");
    }
    veth::assign(&guest, inside, &interface.inside, &interface.addresses, &interface.gateways).await?;
    Ok(ifindex)
}

async fn required(handle: &Handle, name: &str) -> Result<u32> {
    required_link(handle, name).await.map(|link| link.header.index)
}

async fn required_link(handle: &Handle, name: &str) -> Result<LinkMessage> {
    let link = link_by_name(handle, name).await?;
    link.ok_or_else(|| Error::new(format!("there is no interface '{name}'")))
}

/// Creates a veth pair, with the host's end as a port of its bridge.
async fn pair(host: &Handle, interface: &ExtraInterface, guest_netns: BorrowedFd<'_>) -> Result<u32> {
    let name = &interface.host;
    // Left over from an earlier boot of the machine.
    delete_host_end(host, interface).await?;
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(interface.inside.as_str())
        .address(interface.guest_mac.octets().to_vec())
        .build();
    peer.attributes.push(LinkAttribute::NetNsFd(guest_netns.as_raw_fd()));
    let mut pair = LinkMessageBuilder::<LinkVeth>::new(name, &interface.inside)
        .address(interface.host_mac.octets().to_vec())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    let mut bridge_index = None;
    if let Some(bridge) = &interface.bridge {
        let index = if interface.creates_bridge {
            zone_bridge::create(host, bridge, None).await?
        } else {
            zone_bridge::find(host, bridge).await?
        };
        pair = pair.controller(index);
        bridge_index = Some(index);
    }
    let making = || format!("cannot create the veth pair '{name}'");
    host.link().add(pair.build()).execute().await.map_err(failure).context(making)?;
    let ifindex = required(host, name).await?;
    altnames::add(host, ifindex, name, interface.altname.iter()).await;
    let up = LinkUnspec::new_with_index(ifindex).up().build();
    if interface.is_plain {
        if bridge_index.is_some() {
            set(host, up, &format!("bring up '{name}'")).await?;
        }
        return Ok(bridge_index.unwrap_or(ifindex));
    }
    if interface.bridge.is_some() {
        crate::network::sysctl::disable_ipv6_on_port(name);
    } else {
        crate::network::sysctl::disable_accept_ra(name);
        if let Err(error) = crate::network::veth::ingress::protect(name, None) {
            log::warn!("{error}, ignoring");
        }
    }
    set(host, up, &format!("bring up '{name}'")).await?;
    Ok(ifindex)
}

/// Creates a macvlan or ipvlan on an interface of the host, inside the machine's network namespace, which
/// deletes it at its end.
async fn create_on(host: &Handle, interface: &ExtraInterface, guest_netns: BorrowedFd<'_>) -> Result<()> {
    let below = required(host, &interface.host).await?;
    let (word, message) = match interface.kind {
        InterfaceKind::Ipvlan => {
            let link = LinkIpVlan::new(&interface.inside, below, IpVlanMode::L2);
            ("ipvlan", link.setns_by_fd(guest_netns.as_raw_fd()).build())
        }
        _ => {
            let link = LinkMacVlan::new(&interface.inside, below, MacVlanMode::Bridge);
            let link = link.address(interface.guest_mac.octets().to_vec());
            ("macvlan", link.setns_by_fd(guest_netns.as_raw_fd()).build())
        }
    };
    host.link().add(message).execute().await.map_err(|error| {
        let lacks = errno(&error) == Some(Errno::OPNOTSUPP);
        let error =
            failure(error).context(format!("cannot create a {word} interface on '{}'", interface.host));
        if lacks {
            error.with_hint(format!("use a kernel with {word} support (CONFIG_{})", word.to_uppercase()))
        } else {
            error
        }
    })
}

/// Deletes the host's ends created by Coracle. A missing one is not an error.
///
/// # Errors
/// Any error of netlink.
pub(crate) async fn delete_host_ends(interfaces: &[ExtraInterface]) -> Result<()> {
    let is_existing = |interface: &&ExtraInterface| interface.host_end().is_some_and(veth::exists);
    let existing: Vec<&ExtraInterface> = interfaces.iter().filter(is_existing).collect();
    if existing.is_empty() {
        return Ok(());
    }
    let handle = connect()?;
    for interface in existing {
        delete_host_end(&handle, interface).await?;
    }
    Ok(())
}

/// Deletes macvlan and ipvlan interfaces of the machine: the kernel deletes a network namespace
/// asynchronously, and two interfaces with one link-layer address cannot coexist.
///
/// # Errors
/// The first failed deletion.
pub(crate) async fn delete_from(interfaces: &[ExtraInterface], netns: BorrowedFd<'_>) -> Result<()> {
    let guest = connect_in(netns)?;
    for interface in interfaces
        .iter()
        .filter(|interface| matches!(interface.kind, InterfaceKind::Macvlan | InterfaceKind::Ipvlan))
    {
        let index = match interface.index {
            Some(index) => index,
            // The supervisor was killed before it recorded the index.
            None => match link_by_name(&guest, &interface.inside).await? {
                Some(link) => link.header.index,
                None => continue,
            },
        };
        match guest.link().del(index).execute().await {
            Err(error) if errno(&error) != Some(Errno::NODEV) => {
                return Err(
                    failure(error).context(format!("cannot delete '{}' of the machine", interface.inside))
                );
            }
            _ => {}
        }
    }
    Ok(())
}

async fn delete_host_end(handle: &Handle, interface: &ExtraInterface) -> Result<()> {
    let Some(link) = link_by_name(handle, &interface.host).await? else { return Ok(()) };
    if !is_ours(interface, &link) {
        return Ok(());
    }
    match handle.link().del(link.header.index).execute().await {
        Err(error) if errno(&error) != Some(Errno::NODEV) => {
            Err(failure(error).context(format!("cannot delete interface '{}'", interface.host)))
        }
        _ => Ok(()),
    }
}

fn is_ours(interface: &ExtraInterface, link: &LinkMessage) -> bool {
    is_veth(link) && link.attributes.contains(&LinkAttribute::Address(interface.host_mac.octets().to_vec()))
}
