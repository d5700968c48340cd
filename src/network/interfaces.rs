//! Interfaces of a machine beside its link: further pairs, the port of a bridge of the host, interfaces on
//! the host's and the host's own. Called by the supervisor, which names them in the state record first,
//! and by `cleanup`. Which they are `run` has decided; they have no addresses from us.

use super::addresses::{GUEST_INTERFACE, GUEST_MAC_KEY, HOST_MAC_KEY, host_interface_name, mac};
use super::veth::{
    LOOPBACK, bridge, connect, connect_in, errno, failure, is_veth, link_by_index, link_by_name, set,
};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::machine::network::{InterfaceKind, Mode, Network};
use crate::network::firewall::Extra;
use rtnetlink::packet_route::link::{
    InfoData, InfoVeth, IpVlanMode, LinkAttribute, LinkMessage, MacVlanMode,
};
use rtnetlink::{Handle, LinkIpVlan, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsRawFd, BorrowedFd};

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// What it is.
    kind: InterfaceKind,
    /// Its name on the host, or that of the interface it is on.
    host: String,
    /// The unabridged one.
    altname: Option<String>,
    /// Its name inside.
    inside: String,
    /// The bridge that the host's end is a port of.
    bridge: Option<String>,
    /// Link-layer address of the host's end, by which it is known as ours.
    host_mac: [u8; 6],
    /// Link-layer address inside.
    guest_mac: [u8; 6],
    /// Its index inside, for one that goes back.
    index: Option<u32>,
    /// Whether the host forwards packets from it.
    #[serde(default)]
    is_routed: bool,
}

impl Wire {
    /// The interfaces of a machine, its port of a bridge first.
    pub fn all(machine: &Name, network: &Network, host_id: &[u8; 16]) -> Vec<Self> {
        let wire = |kind, host: &str, inside: String| Self {
            kind,
            host: host.to_owned(),
            altname: None,
            host_mac: mac(HOST_MAC_KEY, host_id, &format!("{machine}/{inside}")),
            guest_mac: mac(GUEST_MAC_KEY, host_id, &format!("{machine}/{inside}")),
            inside,
            bridge: None,
            index: None,
            is_routed: network.veth_extra_routed,
        };
        let mut wires = Vec::new();
        if let (Mode::Bridge, Some(bridge)) = (network.mode, &network.bridge) {
            let (host, altname) = host_interface_name("vb-", machine);
            let port = wire(InterfaceKind::Veth, &host, GUEST_INTERFACE.to_owned());
            // As on a link of its own: who gives it an address knows it by this.
            let guest_mac = mac(GUEST_MAC_KEY, host_id, machine.as_str());
            wires.push(Self { altname, guest_mac, bridge: Some(bridge.to_string()), ..port });
        }
        wires.extend(network.interfaces.iter().map(|further| {
            let host = further.names.host.as_str();
            let inside = further.names.inside.as_ref().map(ToString::to_string);
            let inside = inside.unwrap_or_else(|| match further.kind {
                InterfaceKind::Macvlan => format!("mv-{host}"),
                InterfaceKind::Ipvlan => format!("iv-{host}"),
                InterfaceKind::Veth | InterfaceKind::Moved => host.to_owned(),
            });
            wire(further.kind, host, inside)
        }));
        wires
    }

    /// The host's end, where it has one.
    pub fn host_end(&self) -> Option<&str> {
        (self.kind == InterfaceKind::Veth).then_some(self.host.as_str())
    }

    /// Its host's end for the firewall, where that is to judge its packets.
    pub fn extra(&self) -> Option<Extra> {
        let name = self.host_end()?;
        match self.bridge {
            Some(_) => Some(Extra::port(name)),
            None => (!self.is_routed).then(|| Extra::link(name)),
        }
    }

    /// Forgets where it was, for another network namespace.
    pub fn leave(&mut self) {
        self.index = None;
    }

    /// Whether it is the host's, or on one of the host's: then the host gets it back, or rid of it.
    pub fn is_lent(&self) -> bool {
        self.kind != InterfaceKind::Veth
    }
}

/// As `network` shows it.
impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = match self.kind {
            InterfaceKind::Veth if self.bridge.is_some() => "bridge",
            InterfaceKind::Veth => "veth",
            InterfaceKind::Macvlan => "macvlan",
            InterfaceKind::Ipvlan => "ipvlan",
            InterfaceKind::Moved => "interface",
        };
        let host = self.bridge.as_ref().unwrap_or(&self.host);
        write!(f, "{word}:{host}:{}", self.inside)
    }
}

/// Refuses what cannot be, before anything is made.
///
/// # Errors
/// An interface of the host that is not there, or a name that is taken.
pub async fn check(wires: &[Wire]) -> Result<()> {
    let handle = connect()?;
    for wire in wires {
        let name = &wire.host;
        let there = link_by_name(&handle, name).await?;
        if let Some(bridge) = &wire.bridge {
            bridge::find(&handle, bridge).await?;
        }
        match (wire.kind, there) {
            (InterfaceKind::Veth, Some(link)) if !is_ours(wire, &link) => {
                return Err(Error::new(format!("interface '{name}' exists, and is not the machine's"))
                    .with_hint(format!("call it otherwise, or remove it with 'ip link delete {name}'")));
            }
            (InterfaceKind::Moved, Some(link)) if link.header.index == LOOPBACK => {
                return Err(Error::new("the host's loopback interface stays with the host"));
            }
            (InterfaceKind::Veth, _) | (_, Some(_)) => {}
            (_, None) => {
                return Err(Error::new(format!("the host has no interface '{name}'"))
                    .with_hint("'ip link' lists those it has"));
            }
        }
    }
    Ok(())
}

/// Makes an interface or moves it in, and brings it up inside. Returns the index of the host's end.
///
/// # Errors
/// Names what failed.
pub async fn connect_wire(wire: &mut Wire, guest_netns: BorrowedFd<'_>) -> Result<Option<u32>> {
    let host = connect()?;
    let guest = connect_in(guest_netns)?;
    set(&guest, LinkUnspec::new_with_index(LOOPBACK).up().build(), "bring up 'lo' in the machine").await?;
    let ifindex = match wire.kind {
        InterfaceKind::Veth => Some(pair(&host, wire, guest_netns).await?),
        InterfaceKind::Macvlan | InterfaceKind::Ipvlan => {
            lay(&host, wire, guest_netns).await?;
            None
        }
        InterfaceKind::Moved => {
            let link = required(&host, &wire.host).await?;
            let message = LinkUnspec::new_with_index(link)
                .name(&wire.inside)
                .setns_by_fd(guest_netns.as_raw_fd())
                .build();
            // An interface that is up keeps its name.
            let down = LinkUnspec::new_with_index(link).down().build();
            set(&host, down, &format!("take '{}' down", wire.host)).await?;
            set(&host, message, &format!("move '{}' into the machine", wire.host)).await?;
            None
        }
    };
    let inside = required(&guest, &wire.inside).await?;
    wire.index = Some(inside);
    let up = LinkUnspec::new_with_index(inside).up().build();
    // One whose cable is out, or whose driver wants more first, is the guest's to bring up.
    if let Err(error) = set(&guest, up, &format!("bring up '{}' in the machine", wire.inside)).await {
        log::warn!("{error}, ignoring");
    }
    Ok(ifindex)
}

async fn required(handle: &Handle, name: &str) -> Result<u32> {
    let link = link_by_name(handle, name).await?;
    link.map(|link| link.header.index).ok_or_else(|| Error::new(format!("there is no interface '{name}'")))
}

/// A pair, the host's end a port of its bridge.
async fn pair(host: &Handle, wire: &Wire, guest_netns: BorrowedFd<'_>) -> Result<u32> {
    let name = &wire.host;
    // What an earlier boot of the machine had.
    remove_ours(host, wire).await?;
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(wire.inside.as_str())
        .address(wire.guest_mac.to_vec())
        .build();
    peer.attributes.push(LinkAttribute::NetNsFd(guest_netns.as_raw_fd()));
    let mut pair = LinkMessageBuilder::<LinkVeth>::new(name, &wire.inside)
        .address(wire.host_mac.to_vec())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    if let Some(bridge) = &wire.bridge {
        pair = pair.controller(bridge::find(host, bridge).await?);
    }
    let making = || format!("cannot make the veth pair '{name}'");
    host.link().add(pair.build()).execute().await.map_err(failure).context(making)?;
    let ifindex = required(host, name).await?;
    if let Some(altname) = &wire.altname
        && let Err(error) = host.link().property_add(ifindex).alt_ifname(&[altname]).execute().await
    {
        log::debug!("cannot give '{name}' the name '{altname}': {}, ignoring", failure(error));
    }
    if wire.bridge.is_some() {
        crate::network::sysctl::disable_ipv6(name);
    } else {
        crate::network::sysctl::distrust(name);
        if let Err(error) = crate::network::veth::ingress::protect(name, None) {
            log::warn!("{error}, ignoring");
        }
    }
    set(host, LinkUnspec::new_with_index(ifindex).up().build(), &format!("bring up '{name}'")).await?;
    Ok(ifindex)
}

/// An interface on one of the host's, made inside: it goes with the machine's network namespace.
async fn lay(host: &Handle, wire: &Wire, guest_netns: BorrowedFd<'_>) -> Result<()> {
    let below = required(host, &wire.host).await?;
    let (word, message) = match wire.kind {
        InterfaceKind::Ipvlan => {
            let link = LinkIpVlan::new(&wire.inside, below, IpVlanMode::L2);
            ("ipvlan", link.setns_by_fd(guest_netns.as_raw_fd()).build())
        }
        _ => {
            let link = LinkMacVlan::new(&wire.inside, below, MacVlanMode::Bridge);
            let link = link.address(wire.guest_mac.to_vec());
            ("macvlan", link.setns_by_fd(guest_netns.as_raw_fd()).build())
        }
    };
    host.link().add(message).execute().await.map_err(|error| {
        let lacks = errno(&error) == Some(Errno::OPNOTSUPP);
        let error = failure(error).context(format!("cannot make an {word} on '{}'", wire.host));
        if lacks {
            error.with_hint(format!("the kernel has no {word} (CONFIG_{})", word.to_uppercase()))
        } else {
            error
        }
    })
}

/// Removes the host's ends that are ours. What is gone already is fine.
///
/// # Errors
/// Where the kernel refuses.
pub async fn remove_wires(wires: &[Wire]) -> Result<()> {
    let handle = connect()?;
    for wire in wires.iter().filter(|wire| wire.kind == InterfaceKind::Veth) {
        remove_ours(&handle, wire).await?;
    }
    Ok(())
}

/// Removes what was laid on interfaces of the host: the kernel takes its time with a network namespace
/// that is gone, and two of one link-layer address cannot be.
///
/// # Errors
/// The first that does not go.
pub async fn lift(wires: &[Wire], netns: BorrowedFd<'_>) -> Result<()> {
    let guest = connect_in(netns)?;
    for wire in
        wires.iter().filter(|wire| matches!(wire.kind, InterfaceKind::Macvlan | InterfaceKind::Ipvlan))
    {
        let index = match wire.index {
            Some(index) => index,
            // Killed before that was written down.
            None => match link_by_name(&guest, &wire.inside).await? {
                Some(link) => link.header.index,
                None => continue,
            },
        };
        match guest.link().del(index).execute().await {
            Err(error) if errno(&error) != Some(Errno::NODEV) => {
                return Err(failure(error).context(format!("cannot remove '{}' of the machine", wire.inside)));
            }
            _ => {}
        }
    }
    Ok(())
}

async fn remove_ours(handle: &Handle, wire: &Wire) -> Result<()> {
    let Some(link) = link_by_name(handle, &wire.host).await? else { return Ok(()) };
    if !is_ours(wire, &link) {
        return Ok(());
    }
    match handle.link().del(link.header.index).execute().await {
        Err(error) if errno(&error) != Some(Errno::NODEV) => {
            Err(failure(error).context(format!("cannot remove interface '{}'", wire.host)))
        }
        _ => Ok(()),
    }
}

fn is_ours(wire: &Wire, link: &LinkMessage) -> bool {
    is_veth(link) && link.attributes.contains(&LinkAttribute::Address(wire.host_mac.to_vec()))
}

/// Brings the host's own interfaces back from a network namespace, under the names they had. What the
/// guest has called them, and whether they are up, is all the same.
///
/// # Errors
/// The first that does not come; the others do.
pub async fn bring_back(wires: &[Wire], netns: BorrowedFd<'_>) -> Result<()> {
    let host = std::fs::File::open("/proc/thread-self/ns/net")
        .context(|| "cannot open our own network namespace".to_owned())?;
    let guest = connect_in(netns)?;
    let mut result = Ok(());
    for wire in wires.iter().filter(|wire| wire.kind == InterfaceKind::Moved) {
        let link = match wire.index {
            Some(index) => link_by_index(&guest, index).await?,
            // Killed before that was written down: no guest has called it otherwise yet.
            None => link_by_name(&guest, &wire.inside).await?,
        };
        let Some(link) = link else { continue };
        let index = link.header.index;
        let down = LinkUnspec::new_with_index(index).down().build();
        let back = LinkUnspec::new_with_index(index).name(&wire.host).setns_by_fd(host.as_raw_fd()).build();
        let doing = format!("bring '{}' back from the machine", wire.host);
        let moved = match set(&guest, down, &doing).await {
            Ok(()) => set(&guest, back, &doing).await,
            error => error,
        };
        result = result.and(moved);
    }
    result
}
