//! Chooses names and addresses of a machine's link. Called by `claim`, with the lock of claims held:
//! addresses of machines that are starting are in their records, and each address of a single link has a lock
//! file.

use super::locks;
use crate::error::{Error, Result};
use crate::host::runtime::runtime;
use crate::host::{lock, probe};
use crate::machine::Machine;
use crate::machine::id128::Id128;
use crate::machine::network::{Mode, Zone};
use crate::machine::static_address::StaticAddress;
use crate::network::addresses::zone::{self, Present, ZoneNetwork};
use crate::network::addresses::{self, AddressPrefix, LinkPlan};
use crate::network::firewall::Member;
use crate::network::interfaces::ExtraInterface;
use crate::network::{sysctl, veth};
use crate::paths::Paths;
use crate::state::record::Record;
use std::net::{IpAddr, Ipv6Addr};

/// Returns the prefixes that the host uses, without those of the machine's own interface or bridge. `None`
/// for a machine without a link.
pub(super) fn prefixes_of_host(machine: &Machine) -> Result<Option<Vec<AddressPrefix>>> {
    if !machine.network.has_link() {
        return Ok(None);
    }
    let own = match (&machine.network.zone, machine.network.mode) {
        (Some(zone), Mode::Zone) => zone.bridge(),
        (_, Mode::Veth) => addresses::host_interface_name("ve-", &machine.name).0,
        _ => return Ok(None),
    };
    runtime()?.block_on(veth::taken_prefixes(&own)).map(Some)
}

/// Refuses a zone whose running machines have addresses from Coracle while this one has none, or the reverse:
/// the firewall drops frames of a port with other addresses than its own.
pub(super) fn refuse_mixed_zone(paths: &Paths, machine: &Machine) -> Result<()> {
    let Some(zone) = &machine.network.zone else { return Ok(()) };
    let is_other = |other: &Record| {
        let is_plain = other.interfaces.iter().any(ExtraInterface::is_plain_port_of_zone);
        other.name != machine.name
            && other.zone.as_ref() == Some(zone)
            && is_plain != machine.network.has_plain_link()
            && other.is_alive()
    };
    let Some(other) = Record::all(paths).into_iter().find(is_other) else { return Ok(()) };
    let text = format!("machine '{}' of zone '{zone}' has another value of network.addresses", other.name);
    Err(Error::new(text).with_hint("choose another zone, or one value for all machines of the zone"))
}

/// Chooses the addresses outside of the prefixes that are `taken`: after a reboot those before it (`before`).
pub(super) fn choose(
    paths: &Paths,
    machine: &Machine,
    mut taken: Vec<AddressPrefix>,
    before: Option<&Record>,
) -> Result<LinkPlan> {
    let host = probe::host_id();
    let plan = match &machine.network.zone {
        Some(zone) => {
            let present = members(paths, machine, zone, before, &mut taken);
            let plan = zone::plan(&machine.name, zone, host, &taken, &present)?;
            plan.with_guest_mac(machine.network.mac)
        }
        None => single(paths, machine, host, taken, before)?.with_guest_mac(machine.network.mac),
    };
    Ok(LinkPlan { has_ipv6: sysctl::has_ipv6(), ..plan.with_static(&machine.network) })
}

/// Returns the plan of a link outside of zones.
fn single(
    paths: &Paths,
    machine: &Machine,
    host: Id128,
    mut taken: Vec<AddressPrefix>,
    before: Option<&Record>,
) -> Result<LinkPlan> {
    let addresses = before.filter(|record| record.zone.is_none()).map(|record| &record.addresses);
    let had = addresses.into_iter().flatten().find_map(|address| match address {
        IpAddr::V4(address) => addresses::plan_of_address(&machine.name, host, *address),
        IpAddr::V6(_) => None,
    });
    if let Some(plan) = had {
        return Ok(plan);
    }
    loop {
        let plan = addresses::plan(&machine.name, host, &taken)?;
        if !lock::is_taken(&locks::address_file(paths, plan.ipv4.guest)) {
            return Ok(plan);
        }
        taken.push(AddressPrefix::host(plan.ipv4.guest.into()));
    }
}

/// Returns the members of a zone, and the address in it that the machine had before a reboot. Adds the
/// addresses of other machines to `taken`: their links may not exist yet.
fn members(
    paths: &Paths,
    machine: &Machine,
    zone: &Zone,
    before: Option<&Record>,
    taken: &mut Vec<AddressPrefix>,
) -> Present {
    let mut present = Present::default();
    for record in Record::all(paths) {
        let Some(member) = record.firewall.as_ref().filter(|_| record.name != machine.name) else {
            continue;
        };
        if !record.is_alive() {
            continue;
        }
        if member.zone() == Some(zone) {
            present.members.push(member.addresses().0);
            present.network = present.network.or_else(|| network_of(member));
        } else {
            taken.extend(prefixes_of(member));
        }
    }
    let before = before.and_then(|record| record.firewall.as_ref());
    present.fixed.clone_from(&machine.network.address);
    // Static addresses may be those of another network than before.
    let before = before.filter(|member| member.zone() == Some(zone) && present.fixed.is_empty());
    present.own = before.map(|member| member.addresses().0);
    present.network = present.network.or_else(|| network_of(before?));
    present
}

/// Returns the prefixes that the link of a machine uses. A network wider than the pool does not count, but the
/// address in it does.
fn prefixes_of(member: &Member) -> [AddressPrefix; 3] {
    let [ipv4, ipv6] =
        member.networks().map(|StaticAddress { address, length }| AddressPrefix { address, length });
    [AddressPrefix::host(ipv4.address), ipv4, ipv6]
}

/// Returns the network of a member of a zone.
fn network_of(member: &Member) -> Option<ZoneNetwork> {
    let ipv6 = Ipv6Addr::from_bits(member.ipv6_prefix().to_bits() | 1);
    Some(ZoneNetwork { host: member.gateway()?, length: member.ipv4_length(), ipv6 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::name::Name;
    use crate::network::addresses::Pair;
    use std::net::Ipv4Addr;

    #[test]
    fn a_zone_has_no_network_of_a_machine_that_is_starting() {
        let (name, zone) = (Name::new("a").unwrap(), Zone::new("lan").unwrap());
        let network_of = |taken: &[AddressPrefix]| {
            zone::plan(&name, &zone, Id128::NULL, taken, &Present::default()).unwrap().ipv4.host
        };
        let free = network_of(&[]);
        let guest = Ipv4Addr::from_bits(free.to_bits() + 6);
        let link = addresses::plan(&name, Id128::NULL, &[]).unwrap();
        for (guest, length) in [(guest, 24), (guest, 8), (Ipv4Addr::from_bits(guest.to_bits() ^ 1 << 10), 20)]
        {
            let ipv4 = Pair { host: free, guest };
            let member = Member::new(&LinkPlan { ipv4, ipv4_length: length, ..link.clone() }, &[]);
            assert_ne!(network_of(&prefixes_of(&member)), free, "{guest}/{length}");
        }
    }
}
