//! Refuses static addresses that the host or another machine uses, and names the user. Called by `claim` and
//! `control`.

use crate::error::{Error, Result};
use crate::host::runtime::runtime;
use crate::machine::Machine;
use crate::machine::static_address::StaticAddress;
use crate::network::addresses::{self, AddressPrefix};
use crate::network::interfaces::ExtraInterface;
use crate::network::veth::{self, UsedPrefix};
use crate::paths::Paths;
use crate::state::record::Record;

/// Refuses addresses of the host. Those of a link must not be in a network of the host either: its route is
/// that of the link. Wider routes do not matter, since the route of the link is more specific.
///
/// # Errors
/// An address in use, or any error of netlink.
pub(crate) fn refuse_of_host(paths: &Paths, machine: &Machine) -> Result<()> {
    let network = &machine.network;
    if network.address.is_empty() {
        return Ok(());
    }
    let used = runtime()?.block_on(veth::used_prefixes())?;
    let bridge = network.zone.as_ref().map(|zone| zone.bridge());
    let own_interface = bridge.unwrap_or_else(|| addresses::host_interface_name("ve-", &machine.name).0);
    for own in &network.address {
        let is_conflict = |used: &&UsedPrefix| {
            if !network.has_link() {
                return used.local == Some(own.address);
            }
            let overlaps = used.prefix.overlaps(&prefix(own));
            used.interface != own_interface
                && overlaps
                && (used.local.is_some() || used.prefix.length >= own.length)
        };
        if let Some(used) = used.iter().find(is_conflict) {
            return Err(conflict(paths, own, used));
        }
    }
    Ok(())
}

fn prefix(own: &StaticAddress) -> AddressPrefix {
    AddressPrefix { address: own.address, length: own.length }
}

/// Returns the error for an address that the host uses.
fn conflict(paths: &Paths, own: &StaticAddress, used: &UsedPrefix) -> Error {
    let is_end = |record: &Record| {
        record.is_alive() && record.host_interface.as_deref() == Some(used.interface.as_str())
    };
    let owner = match Record::all(paths).into_iter().find(is_end) {
        Some(record) => format!("machine '{}'", record.name),
        None => match used.interface.strip_prefix("vz-") {
            Some(zone) => format!("zone '{zone}'"),
            None => format!("interface '{}' of the host", used.interface),
        },
    };
    let AddressPrefix { address, length } = used.prefix;
    let network = StaticAddress { address, length }.network();
    let text = match used.local {
        Some(local) if local == own.address => {
            format!("'{own}' in network.address is the address of {owner}")
        }
        Some(_) => format!("'{own}' in network.address is in the network {network}/{length} of {owner}"),
        None => {
            format!("'{own}' in network.address is in the network of the route {network}/{length}, {owner}")
        }
    };
    Error::new(text).with_hint("choose an address of another network, or free the address; see 'ip address'")
}

/// Refuses addresses of running machines, with the lock of claims held: those that are starting have no link
/// yet.
///
/// # Errors
/// An address in use.
pub(crate) fn refuse_of_machines(paths: &Paths, machine: &Machine, own: &[ExtraInterface]) -> Result<()> {
    let network = &machine.network;
    if network.address.is_empty() {
        return Ok(());
    }
    for other in Record::all(paths).iter().filter(|other| other.name != machine.name && other.is_alive()) {
        let is_shared = |address: &&StaticAddress| {
            if network.has_link() {
                is_of_member(other, address)
            } else {
                is_of_interface(other, address, own)
            }
        };
        if let Some(shared) = network.address.iter().find(is_shared) {
            let text = format!("'{shared}' in network.address is the address of machine '{}'", other.name);
            return Err(Error::new(text).with_hint(format!(
                "choose another address, or stop it with 'coracle stop {}'",
                other.name
            )));
        }
    }
    Ok(())
}

/// Returns whether a machine has this address on its link.
fn is_of_member(other: &Record, address: &StaticAddress) -> bool {
    let Some(member) = &other.firewall else { return false };
    let (ipv4, ipv6) = member.addresses();
    [ipv4.into(), ipv6.into()].contains(&address.address)
}

/// Returns whether a machine has this address on the same bridge or lower interface.
fn is_of_interface(other: &Record, address: &StaticAddress, own: &[ExtraInterface]) -> bool {
    let shares = |one: &&ExtraInterface| own.iter().any(|interface| interface.shares_network_with(one));
    other
        .interfaces
        .iter()
        .filter(shares)
        .flat_map(ExtraInterface::addresses)
        .any(|one| one == address.address)
}
