//! The addresses of a zone and of its machines. Pure, as `addresses.rs`: a zone gets the same network at each
//! start if it is free, and a machine the same address in it.

use super::{
    AddressPrefix, GUEST_MAC_KEY, HOST_MAC_KEY, IPV6_LENGTH, LinkPlan, Pair, SLOT_KEY, ULA_KEY, bridge_mac,
    host_interface_name, mac, with_interface_id,
};
use crate::error::{Error, Result};
use crate::machine::hash::siphash;
use crate::machine::id128::Id128;
use crate::machine::name::Name;
use crate::machine::network::Zone;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The pool of IPv4 networks for zones.
pub(super) const POOL: Ipv4Addr = Ipv4Addr::new(10, 178, 0, 0);
pub(super) const POOL_LENGTH: u8 = 15;
/// Length of a zone's IPv4 prefix: as many addresses as a Linux bridge has ports.
pub(crate) const LENGTH: u8 = 22;
const SLOTS: u32 = 1 << (LENGTH - POOL_LENGTH);
/// Addresses for machines: all but the network's, the bridge's and the broadcast address.
const HOSTS: u32 = (1 << (32 - LENGTH)) - 3;
/// The bit that distinguishes IPv6 networks of zones from those of single machines.
const IPV6_ZONES: u128 = 0x8000;

/// The addresses in use in a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// The addresses of its machines.
    pub members: Vec<Ipv4Addr>,
    /// The address of this machine before its reboot.
    pub(crate) own: Option<Ipv4Addr>,
}

/// Returns the plan for a machine of a zone. `taken` is as for [`crate::network::addresses::plan`], without
/// the prefixes on the zone's bridge.
///
/// # Errors
/// There is no free network for a new zone, or no free address in an existing one.
pub fn plan(
    machine: &Name,
    zone: &Zone,
    host_id: Id128,
    taken: &[AddressPrefix],
    present: &Present,
) -> Result<LinkPlan> {
    let slot = match present.members.first().or(present.own.as_ref()) {
        Some(address) => slot_of(*address),
        None => free_slot(zone, host_id, taken)?,
    };
    let base = base(slot);
    let guest = match present.own.filter(|own| slot_of(*own) == slot) {
        Some(own) => own,
        None => free_address(machine, base, &present.members)
            .ok_or_else(|| Error::new(format!("zone '{zone}' is full: it has {HOSTS} machines")))?,
    };
    let (host_interface, altname) = host_interface_name("vb-", machine);
    let guest_mac = mac(GUEST_MAC_KEY, host_id, machine, 0);
    let host = ipv6_host(host_id, slot);
    let inside = with_interface_id(host, guest_mac);
    Ok(LinkPlan {
        machine: machine.clone(),
        host_interface,
        altname,
        host_mac: mac(HOST_MAC_KEY, host_id, machine, 0),
        guest_mac,
        router_mac: bridge_mac(host_id, zone),
        zone: Some(zone.clone()),
        ipv4: Pair { host: Ipv4Addr::from_bits(base + 1), guest },
        ipv4_length: LENGTH,
        has_ipv6: true,
        ipv6: Pair { host, guest: inside },
    })
}

fn free_slot(zone: &Zone, host_id: Id128, taken: &[AddressPrefix]) -> Result<u32> {
    let counted: Vec<&AddressPrefix> = taken.iter().filter(|prefix| prefix.length >= POOL_LENGTH).collect();
    let is_free = |slot: &u32| {
        let own = [
            AddressPrefix { address: IpAddr::V4(Ipv4Addr::from_bits(base(*slot))), length: LENGTH },
            AddressPrefix { address: IpAddr::V6(ipv6_host(host_id, *slot)), length: IPV6_LENGTH },
        ];
        !counted.iter().any(|prefix| own.iter().any(|one| one.overlaps(prefix)))
    };
    let first = siphash(SLOT_KEY, &[b"zone:", zone.as_str().as_bytes()]) % u64::from(SLOTS);
    let first = u32::try_from(first).unwrap_or(0);
    (0..SLOTS).map(|step| (first + step) % SLOTS).find(is_free).ok_or_else(|| {
        Error::new(format!("no free addresses for zone '{zone}': all of {POOL}/{POOL_LENGTH} are in use"))
            .with_hint("remove the conflicting route or address from the host")
    })
}

fn free_address(machine: &Name, base: u32, members: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let first = siphash(SLOT_KEY, &[machine.as_str().as_bytes()]) % u64::from(HOSTS);
    let first = u32::try_from(first).unwrap_or(0);
    let mut all = (0..HOSTS).map(|step| Ipv4Addr::from_bits(base + 2 + (first + step) % HOSTS));
    all.find(|address| !members.contains(address))
}

/// Returns the first address of a network.
fn base(slot: u32) -> u32 {
    POOL.to_bits() + (slot << (32 - LENGTH))
}

fn slot_of(address: Ipv4Addr) -> u32 {
    address.to_bits().wrapping_sub(POOL.to_bits()) >> (32 - LENGTH)
}

fn ipv6_host(host_id: Id128, slot: u32) -> Ipv6Addr {
    let global = siphash(ULA_KEY, &[host_id.as_bytes()]) & 0xff_ffff_ffff;
    let subnet = IPV6_ZONES | u128::from(slot);
    Ipv6Addr::from_bits(0xfd_u128 << 120 | u128::from(global) << 80 | subnet << 64 | 1)
}

/// Returns the lowest address of a machine in the network with this first address; the host has the one
/// before.
pub(crate) fn first_machine(network: IpAddr) -> IpAddr {
    match network {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + 2).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + 2).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id128 = Id128::new([7; 16]);

    /// Returns whether two addresses belong to the network of one zone.
    fn is_shared(one: Ipv4Addr, other: Ipv4Addr) -> bool {
        slot_of(one) == slot_of(other)
    }

    fn of(machine: &str, zone: &str, taken: &[AddressPrefix], present: &Present) -> LinkPlan {
        plan(&Name::new(machine).unwrap(), &Zone::new(zone).unwrap(), ID, taken, present).unwrap()
    }

    #[test]
    fn machines_of_a_zone_share_a_network_and_no_address() {
        let (mut present, mut seen) = (Present::default(), Vec::new());
        for number in 0..HOSTS {
            let plan = of(&format!("m{number}"), "lan", &[], &present);
            assert!(!present.members.contains(&plan.ipv4.guest) && plan.ipv4.guest != plan.ipv4.host);
            seen.push((plan.ipv4.host, plan.ipv6.host, plan.router_mac));
            present.members.push(plan.ipv4.guest);
        }
        seen.dedup();
        assert_eq!(seen.len(), 1);
        assert!(present.members.iter().all(|address| is_shared(*address, seen[0].0)));
        let full = plan(&Name::new("x").unwrap(), &Zone::new("lan").unwrap(), ID, &[], &present);
        assert!(full.unwrap_err().to_string().contains("full"));
    }

    #[test]
    fn a_zone_keeps_its_network_and_a_machine_its_address() {
        let alone = of("a", "lan", &[], &Present::default());
        assert_eq!(alone, of("a", "lan", &[], &Present::default()));
        let other = of("a", "dmz", &[], &Present::default());
        assert!(!is_shared(alone.ipv4.host, other.ipv4.host));
        let taken = [AddressPrefix::host(alone.ipv4.guest.into())];
        let moved = of("a", "lan", &taken, &Present::default());
        assert!(!is_shared(alone.ipv4.host, moved.ipv4.host), "its network is in use");
        let present = Present { members: vec![moved.ipv4.guest], own: None };
        assert!(is_shared(of("b", "lan", &taken, &present).ipv4.host, moved.ipv4.host));
        let present = Present { members: Vec::new(), own: Some(moved.ipv4.guest) };
        assert_eq!(of("a", "lan", &[], &present).ipv4, moved.ipv4, "a reboot changes nothing");
        assert_eq!(alone.router_interface(), "vz-lan");
        assert_eq!(alone.host_interface, "vb-a");
    }
}
