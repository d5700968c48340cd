//! Refuses static addresses that the host or another machine uses, and names the user. Called by `claim` and
//! `control`.

use crate::error::{Error, Result};
use crate::host::runtime::runtime;
use crate::machine::Machine;
use crate::machine::network::Zone;
use crate::machine::static_address::StaticAddress;
use crate::network::addresses::{self, AddressPrefix};
use crate::network::firewall::Member;
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
        let text_of = |address: &StaticAddress| match &other.firewall {
            Some(member) if network.has_link() => conflict_of_links(address, network.zone.as_ref(), member),
            None if network.has_link() => None,
            _ => is_of_interface(other, address, own).then(|| "is the address".to_owned()),
        };
        let shared = network.address.iter().find_map(|address| Some((address, text_of(address)?)));
        if let Some((address, text)) = shared {
            let text = format!("'{address}' in network.address {text} of machine '{}'", other.name);
            return Err(Error::new(text).with_hint(format!(
                "choose another address, or stop it with 'coracle stop {}'",
                other.name
            )));
        }
    }
    Ok(())
}

/// Returns how an address conflicts with the link of another machine. Links outside of one zone need distinct
/// networks: the host has a route for each.
fn conflict_of_links(own: &StaticAddress, zone: Option<&Zone>, other: &Member) -> Option<String> {
    let networks = other.networks();
    if networks.iter().any(|network| network.address == own.address) {
        return Some("is the address".into());
    }
    let is_same_zone = zone.is_some() && zone == other.zone();
    let overlaps = |network: &&StaticAddress| !is_same_zone && prefix(network).overlaps(&prefix(own));
    let network = networks.iter().find(overlaps)?;
    Some(format!("is in the network {}/{}", network.network(), network.length))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::id128::Id128;
    use crate::machine::name::Name;
    use crate::network::addresses::{LinkPlan, Pair};

    #[test]
    fn links_of_two_machines_need_distinct_networks() {
        let zone = |name: &str| Zone::new(name).unwrap();
        let plan = addresses::plan(&Name::new("a").unwrap(), Id128::NULL, &[]).unwrap();
        let link = LinkPlan {
            ipv4: Pair { host: [192, 168, 50, 1].into(), guest: [192, 168, 50, 7].into() },
            ipv4_length: 24,
            ipv6: Pair { host: "fd12:50::1".parse().unwrap(), guest: "fd12:50::7".parse().unwrap() },
            ..plan
        };
        let single = Member::new(&link, &[]);
        let of_zone = Member::new(&LinkPlan { zone: Some(zone("lan")), ..link }, &[]);
        let text = |own: &str, of: Option<&Zone>, other| {
            conflict_of_links(&own.parse().unwrap(), of, other).unwrap_or_default()
        };
        let (lan, dmz) = (zone("lan"), zone("dmz"));
        for (own, expected) in [
            ("192.168.50.7/24", "is the address"),
            ("192.168.50.8/24", "is in the network 192.168.50.0/24"),
            ("192.168.50.129/28", "is in the network 192.168.50.0/24"),
            ("192.168.1.9/16", "is in the network 192.168.50.0/24"),
            ("fd12:50::8/64", "is in the network fd12:50::/64"),
            ("192.168.51.8/24", ""),
            ("fd12:51::7/64", ""),
        ] {
            assert_eq!(text(own, None, &single), expected, "{own}");
            assert_eq!(text(own, None, &of_zone), expected, "{own}");
            assert_eq!(text(own, Some(&dmz), &of_zone), expected, "{own}");
            let in_zone = if expected == "is the address" { expected } else { "" };
            assert_eq!(text(own, Some(&lan), &of_zone), in_zone, "{own}");
        }
    }
}
