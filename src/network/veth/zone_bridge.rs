//! The bridge of a zone: created with the first of its machines, deleted with the last. Called by `veth.rs`,
//! with the zone locked.

use super::{connect, errno, failure, link_by_index, link_by_name, set};
use crate::error::{Context, Error, Result};
use crate::machine::mac_addr::MacAddr;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo,
    LinkMessage,
};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec};
use rustix::io::Errno;

/// Returns the index of a zone's bridge and creates the bridge if it is missing. A bridge created by
/// systemd-nspawn for the same zone is used as it is, except for its link-layer address. Without an address
/// the bridge is one as systemd-nspawn creates it.
///
/// # Errors
/// Another interface has this name, or any error of netlink.
pub(in crate::network) async fn create(handle: &Handle, name: &str, mac: Option<MacAddr>) -> Result<u32> {
    let making = || format!("cannot create the bridge '{name}'");
    if link_by_name(handle, name).await?.is_none() {
        let mut bridge = LinkMessageBuilder::<LinkBridge>::new(name);
        if let Some(mac) = mac {
            // Without multicast snooping: the bridge has no querier, so that all of its few machines receive
            // multicast.
            bridge = bridge
                .address(mac.octets().to_vec())
                .set_info_data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]));
        }
        handle.link().add(bridge.build()).execute().await.map_err(failure).context(making)?;
    }
    let link = link_by_name(handle, name)
        .await?
        .ok_or_else(|| Error::new(format!("interface '{name}' disappeared during setup")))?;
    if !is_bridge(&link) {
        return Err(Error::new(format!("interface '{name}' exists and is not a bridge")).with_hint(format!(
            "choose another zone name, or delete the interface with 'ip link delete {name}'"
        )));
    }
    let index = link.header.index;
    if let Some(mac) = mac
        && !link.attributes.contains(&LinkAttribute::Address(mac.octets().to_vec()))
    {
        let message = LinkUnspec::new_with_index(index).address(mac.octets().to_vec()).build();
        set(handle, message, &format!("set the link-layer address of '{name}'")).await?;
    }
    Ok(index)
}

/// Enables hairpin mode on a port: if bridged packets are filtered (`br_netfilter`), the destination of a
/// published port is translated on the bridge, and a machine may be the receiver of its own packet.
///
/// # Errors
/// Any error of netlink.
pub(super) async fn enable_hairpin(handle: &Handle, port: u32, name: &str) -> Result<()> {
    let message = LinkUnspec::new_with_index(port)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]))
        .build();
    let doing = || format!("cannot enable hairpin mode on '{name}'");
    handle.link().set_port(message).execute().await.map_err(failure).context(doing)
}

/// The result of deleting a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    /// The bridge does not exist any more.
    Gone,
    /// The bridge has ports.
    Needed,
}

/// Deletes the bridge of a zone if it has no ports.
///
/// # Errors
/// Any error of netlink.
pub(crate) async fn remove_if_empty(name: &str) -> Result<Removed> {
    let handle = connect()?;
    let Some(bridge) = link_by_name(&handle, name).await? else { return Ok(Removed::Gone) };
    let index = bridge.header.index;
    let doing = || format!("cannot delete the bridge '{name}'");
    if !is_bridge(&bridge) {
        log::warn!("interface '{name}' is not a bridge, not deleting it");
        return Ok(Removed::Needed);
    }
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(failure).context(doing)? {
        if link.attributes.contains(&LinkAttribute::Controller(index)) {
            return Ok(Removed::Needed);
        }
    }
    match handle.link().del(index).execute().await {
        Err(error) if errno(&error) != Some(Errno::NODEV) => Err(failure(error)).context(doing),
        _ => Ok(Removed::Gone),
    }
}

/// Returns the index of an existing bridge of the host.
///
/// # Errors
/// The interface is missing or is not a bridge.
pub(in crate::network) async fn find(handle: &Handle, name: &str) -> Result<u32> {
    let hint = || format!("create it with 'ip link add {name} type bridge'");
    let link = link_by_name(handle, name)
        .await?
        .ok_or_else(|| Error::new(format!("bridge '{name}' does not exist")).with_hint(hint()))?;
    let known = link_by_index(handle, link.header.index).await?.is_some_and(|link| is_bridge(&link));
    if known { Ok(link.header.index) } else { Err(Error::new(format!("interface '{name}' is not a bridge"))) }
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    })
}
