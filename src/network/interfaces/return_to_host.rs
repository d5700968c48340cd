//! The way back of the host's own interfaces. Called by the supervisor and by `cleanup`.

use super::{ExtraInterface, required_link};
use crate::error::{Context, Result};
use crate::machine::network::InterfaceKind;
use crate::network::altnames;
use crate::network::veth::{connect, connect_in, link_by_index, link_by_name, set};
use rtnetlink::LinkUnspec;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Returns the host's own interfaces from a network namespace to the host, with their former names. The name
/// and state set by the guest do not matter.
///
/// # Errors
/// The first failure; the remaining interfaces are returned nevertheless.
pub(crate) async fn return_to_host(interfaces: &[ExtraInterface], netns: BorrowedFd<'_>) -> Result<()> {
    let host = std::fs::File::open("/proc/thread-self/ns/net")
        .context(|| "cannot open the network namespace of this process".to_owned())?;
    let guest = connect_in(netns)?;
    let mut result = Ok(());
    for interface in interfaces.iter().filter(|interface| interface.kind == InterfaceKind::Moved) {
        let link = match interface.index {
            Some(index) => link_by_index(&guest, index).await?,
            // The supervisor was killed before it recorded the index: no guest has renamed the interface yet.
            None => link_by_name(&guest, &interface.inside).await?,
        };
        let Some(link) = link else { continue };
        let index = link.header.index;
        let down = LinkUnspec::new_with_index(index).down().build();
        let back =
            LinkUnspec::new_with_index(index).name(&interface.host).setns_by_fd(host.as_raw_fd()).build();
        let doing = format!("return '{}' from the machine to the host", interface.host);
        // An alternative name in use on the host would prevent the move.
        let of_guest = altnames::of(&link).into_iter().filter(|name| !interface.altnames.contains(name));
        altnames::remove(&guest, index, of_guest).await;
        let moved = match set(&guest, down, &doing).await {
            Ok(()) => set(&guest, back, &doing).await,
            error => error,
        };
        if moved.is_ok() {
            restore_altnames(interface).await?;
        }
        result = result.and(moved);
    }
    result
}

/// Adds the alternative names that a moved interface had before, if the kernel or the guest has removed them.
async fn restore_altnames(interface: &ExtraInterface) -> Result<()> {
    if interface.altnames.is_empty() {
        return Ok(());
    }
    let host = connect()?;
    let link = required_link(&host, &interface.host).await?;
    let present = altnames::of(&link);
    let missing = interface.altnames.iter().filter(|name| !present.contains(name));
    altnames::add(&host, link.header.index, &interface.host, missing).await;
    Ok(())
}
