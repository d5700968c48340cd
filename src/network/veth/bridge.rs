//! The bridge of a zone: made with the first of its machines, removed with the last. Called by the file
//! above, with the zone locked.

use super::{connect, errno, failure, link_by_index, link_by_name, set};
use crate::error::{Context, Error, Result};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo,
    LinkMessage,
};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec};
use rustix::io::Errno;

/// The index of a bridge, which is made where it is not there. One that systemd-nspawn has made for the
/// same zone is taken as it is, but for its link-layer address.
///
/// # Errors
/// Another interface of this name, or a kernel that refuses.
pub(super) async fn raise(handle: &Handle, name: &str, mac: [u8; 6]) -> Result<u32> {
    let making = || format!("cannot make the bridge '{name}'");
    if link_by_name(handle, name).await?.is_none() {
        // Without snooping: nobody on it asks who listens, and a few machines hear all.
        let bridge = LinkMessageBuilder::<LinkBridge>::new(name)
            .address(mac.to_vec())
            .set_info_data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]))
            .build();
        handle.link().add(bridge).execute().await.map_err(failure).context(making)?;
    }
    let link = link_by_name(handle, name)
        .await?
        .ok_or_else(|| Error::new(format!("interface '{name}' vanished while it was set up")))?;
    if !is_bridge(&link) {
        return Err(Error::new(format!("interface '{name}' exists and is no bridge"))
            .with_hint(format!("call the zone otherwise, or remove it with 'ip link delete {name}'")));
    }
    let index = link.header.index;
    if !link.attributes.contains(&LinkAttribute::Address(mac.to_vec())) {
        let message = LinkUnspec::new_with_index(index).address(mac.to_vec()).build();
        set(handle, message, &format!("set the link-layer address of '{name}'")).await?;
    }
    Ok(index)
}

/// Lets a port send back frames that came by it: where bridges are filtered (`br_netfilter`) a published port is
/// translated on the bridge, and a machine that asks for its own is the receiver.
///
/// # Errors
/// A kernel that refuses.
pub(super) async fn reflect(handle: &Handle, port: u32, name: &str) -> Result<()> {
    let message = LinkUnspec::new_with_index(port)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]))
        .build();
    let doing = || format!("cannot let '{name}' send back frames");
    handle.link().set_port(message).execute().await.map_err(failure).context(doing)
}

/// Whether a bridge is gone, or was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Gone,
    /// It has ports.
    Needed,
}

/// Removes the bridge of a zone that has no port any more.
///
/// # Errors
/// Where the kernel refuses.
pub async fn remove_if_empty(name: &str) -> Result<Removed> {
    let handle = connect()?;
    let Some(bridge) = link_by_name(&handle, name).await? else { return Ok(Removed::Gone) };
    let index = bridge.header.index;
    let doing = || format!("cannot remove the bridge '{name}'");
    if !is_bridge(&bridge) {
        log::warn!("interface '{name}' is no bridge, not removed, ignoring");
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

/// The index of a bridge of the host that is there.
///
/// # Errors
/// None of this name, or another interface.
pub(in crate::network) async fn find(handle: &Handle, name: &str) -> Result<u32> {
    let hint = || format!("make it first: ip link add {name} type bridge");
    let link = link_by_name(handle, name)
        .await?
        .ok_or_else(|| Error::new(format!("there is no bridge '{name}'")).with_hint(hint()))?;
    let known = link_by_index(handle, link.header.index).await?.is_some_and(|link| is_bridge(&link));
    if known { Ok(link.header.index) } else { Err(Error::new(format!("interface '{name}' is no bridge"))) }
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    })
}
