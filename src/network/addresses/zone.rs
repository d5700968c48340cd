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
use crate::machine::static_address::StaticAddress;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The pool of IPv4 networks for zones.
pub(super) const POOL: Ipv4Addr = Ipv4Addr::new(10, 178, 0, 0);
pub(super) const POOL_LENGTH: u8 = 15;
/// Length of a zone's IPv4 prefix: as many addresses as a Linux bridge has ports.
pub(crate) const LENGTH: u8 = 22;
const SLOTS: u32 = 1 << (LENGTH - POOL_LENGTH);
/// The bit that distinguishes IPv6 networks of zones from those of single machines.
const IPV6_ZONES: u128 = 0x8000;

/// The network of a zone: the host's addresses, with the length of the IPv4 prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ZoneNetwork {
    /// The IPv4 address of the host, the first one.
    pub(crate) host: Ipv4Addr,
    /// Length of the IPv4 prefix.
    pub(crate) length: u8,
    /// The IPv6 address of the host.
    pub(crate) ipv6: Ipv6Addr,
}

impl ZoneNetwork {
    fn of_slot(host_id: Id128, slot: u32) -> Self {
        Self { host: Ipv4Addr::from_bits(base(slot) + 1), length: LENGTH, ipv6: ipv6_host(host_id, slot) }
    }

    /// Returns the prefix of a family with the host's address.
    fn prefix(&self, is_ipv4: bool) -> StaticAddress {
        if is_ipv4 {
            StaticAddress { address: self.host.into(), length: self.length }
        } else {
            StaticAddress { address: self.ipv6.into(), length: IPV6_LENGTH }
        }
    }
}

/// The addresses in use in a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// The addresses of its machines.
    pub members: Vec<Ipv4Addr>,
    /// Its network. `None` if none of its machines is running.
    pub(crate) network: Option<ZoneNetwork>,
    /// The address of this machine before its reboot.
    pub(crate) own: Option<Ipv4Addr>,
    /// The static addresses of this machine.
    pub(crate) fixed: Vec<StaticAddress>,
}

/// Returns the plan for a machine of a zone. `taken` is as for [`crate::network::addresses::plan`], without
/// the prefixes on the zone's bridge. The static addresses of the first running machine determine the network
/// of the zone.
///
/// # Errors
/// There is no free network for a new zone, no free address in an existing one, or a static address is not in
/// its network.
pub fn plan(
    machine: &Name,
    zone: &Zone,
    host_id: Id128,
    taken: &[AddressPrefix],
    present: &Present,
) -> Result<LinkPlan> {
    let network = network_of(zone, host_id, taken, present)?;
    let (host_interface, altname) = host_interface_name("vb-", machine);
    let guest_mac = mac(GUEST_MAC_KEY, host_id, machine, 0);
    let inside = with_interface_id(network.ipv6, guest_mac);
    let fixed6 = present.fixed.iter().find_map(|own| match own.address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    });
    Ok(LinkPlan {
        machine: machine.clone(),
        host_interface,
        altname,
        host_mac: mac(HOST_MAC_KEY, host_id, machine, 0),
        guest_mac,
        router_mac: bridge_mac(host_id, zone),
        zone: Some(zone.clone()),
        ipv4: Pair { host: network.host, guest: address_of(machine, zone, &network, present)? },
        ipv4_length: network.length,
        has_ipv6: true,
        ipv6: Pair { host: network.ipv6, guest: fixed6.unwrap_or(inside) },
    })
}

/// Returns the network of a zone: that of its machines, else that of static addresses, else a free one.
fn network_of(
    zone: &Zone,
    host_id: Id128,
    taken: &[AddressPrefix],
    present: &Present,
) -> Result<ZoneNetwork> {
    let recorded = present.members.first().or(present.own.as_ref()).filter(|own| is_in_pool(**own));
    let existing =
        present.network.or_else(|| recorded.map(|own| ZoneNetwork::of_slot(host_id, slot_of(*own))));
    let Some(network) = existing else {
        let mut network = ZoneNetwork::of_slot(host_id, free_slot(zone, host_id, taken)?);
        for own in &present.fixed {
            match own.default_host() {
                IpAddr::V6(host) => network.ipv6 = host,
                IpAddr::V4(host) => (network.host, network.length) = (host, own.length),
            }
        }
        return Ok(network);
    };
    let is_outside = |own: &&StaticAddress| {
        let all = network.prefix(own.address.is_ipv4());
        own.length != all.length || !all.contains(own.address)
    };
    let Some(outside) = present.fixed.iter().find(is_outside) else { return Ok(network) };
    let all = network.prefix(outside.address.is_ipv4());
    let text = format!(
        "'{outside}' in network.address is not in the network of zone '{zone}', {}/{}",
        all.network(),
        all.length
    );
    Err(Error::new(text).with_hint(
        "choose an address of this network, or stop all machines of the zone: the first one determines it",
    ))
}

/// Returns the IPv4 address of a machine: the static one, that before a reboot, or a free one.
fn address_of(machine: &Name, zone: &Zone, network: &ZoneNetwork, present: &Present) -> Result<Ipv4Addr> {
    let fixed = present.fixed.iter().find_map(|own| match own.address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let before = present.own.filter(|own| network.prefix(true).contains((*own).into()));
    if let Some(address) = fixed.or(before) {
        return Ok(address);
    }
    let hosts = (1_u32 << (32 - network.length)).saturating_sub(3);
    // The host has the first address of the network.
    free_address(machine, network.host.to_bits() - 1, hosts, &present.members)
        .ok_or_else(|| Error::new(format!("zone '{zone}' is full: it has {hosts} machines")))
}

fn is_in_pool(address: Ipv4Addr) -> bool {
    slot_of(address) < SLOTS
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

/// Returns a free one of the `hosts` addresses for machines: all but the network's, the bridge's and the
/// broadcast address.
fn free_address(machine: &Name, base: u32, hosts: u32, members: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let first = siphash(SLOT_KEY, &[machine.as_str().as_bytes()]).checked_rem(u64::from(hosts))?;
    let first = u32::try_from(first).unwrap_or(0);
    let mut all = (0..hosts).map(|step| Ipv4Addr::from_bits(base + 2 + (first + step) % hosts));
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
    const HOSTS: u32 = (1 << (32 - LENGTH)) - 3;

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
        let present = Present { members: vec![moved.ipv4.guest], ..Present::default() };
        assert!(is_shared(of("b", "lan", &taken, &present).ipv4.host, moved.ipv4.host));
        let present = Present { own: Some(moved.ipv4.guest), ..Present::default() };
        assert_eq!(of("a", "lan", &[], &present).ipv4, moved.ipv4, "a reboot changes nothing");
        assert_eq!(alone.router_interface(), "vz-lan");
        assert_eq!(alone.host_interface, "vb-a");
    }
    #[test]
    fn a_static_address_determines_the_network_of_a_new_zone() {
        let fixed = |texts: &[&str]| Present {
            fixed: texts.iter().map(|text| text.parse().unwrap()).collect(),
            ..Present::default()
        };
        let first = of("db", "lan", &[], &fixed(&["192.168.50.7/24", "fd12::7/64"]));
        assert_eq!(
            (first.ipv4.guest, first.ipv4.host),
            (Ipv4Addr::new(192, 168, 50, 7), Ipv4Addr::new(192, 168, 50, 1))
        );
        assert_eq!((first.ipv4_length, first.ipv6.host), (24, "fd12::1".parse().unwrap()));
        assert!(first.ipv6.guest == "fd12::7".parse::<Ipv6Addr>().unwrap() && !first.is_autonomous());
        let network = ZoneNetwork { host: first.ipv4.host, length: 24, ipv6: first.ipv6.host };
        let present =
            Present { network: Some(network), members: vec![first.ipv4.guest], ..Present::default() };
        let second = of("web", "lan", &[], &present);
        assert!(
            network.prefix(true).contains(second.ipv4.guest.into()) && second.ipv4.guest != first.ipv4.guest
        );
        assert!(second.is_autonomous());
        let outside = Present { fixed: fixed(&["10.0.0.7/24"]).fixed, ..present };
        let zone = Zone::new("lan").unwrap();
        let error = plan(&Name::new("x").unwrap(), &zone, ID, &[], &outside).unwrap_err();
        assert!(error.to_string().contains("not in the network of zone 'lan', 192.168.50.0/24"), "{error}");
    }
}
