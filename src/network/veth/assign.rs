//! Static addresses of an interface inside a machine. Called by `network::interfaces`.

use super::{add_default_route, failure};
use crate::error::{Context, Result};
use crate::machine::static_address::StaticAddress;
use rtnetlink::Handle;
use std::net::IpAddr;

/// Adds addresses to an interface, and the default routes via their routers. An interface without carrier has
/// no routes yet: the guest sets them.
///
/// # Errors
/// An address that cannot be added.
pub(in crate::network) async fn assign(
    handle: &Handle,
    index: u32,
    name: &str,
    addresses: &[StaticAddress],
    gateways: &[IpAddr],
) -> Result<()> {
    for own in addresses {
        let adding = || format!("cannot add the address {own} to '{name}'");
        let request = handle.address().add(index, own.address, own.length).replace();
        request.execute().await.map_err(failure).context(adding)?;
    }
    for gateway in gateways {
        if let Err(error) = add_default_route(handle, index, *gateway).await {
            log::warn!("{error}, ignoring");
        }
    }
    Ok(())
}
