//! Names and addresses of a machine's veth pair. Pure: computed from the machine's name, the host's machine
//! id and the prefixes in use, so that a machine gets the same values at each start. Called by the supervisor
//! before the host is changed; must not read from the host.

pub mod zone;

use crate::error::{Error, Result};
use crate::machine::hash::siphash;
use crate::machine::id128::Id128;
use crate::machine::mac_addr::MacAddr;
use crate::machine::name::Name;
use crate::machine::network::{INTERFACE_NAME_MAX, Network, Zone};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The pool of IPv4 addresses for veth pairs.
const POOL: Ipv4Addr = Ipv4Addr::new(10, 177, 0, 0);
/// Length of the pool's prefix, bits.
const POOL_LENGTH: u8 = 16;
/// Length of one machine's IPv4 prefix: two addresses, and the network and broadcast addresses required by
/// old guests.
pub(crate) const IPV4_LENGTH: u8 = 30;
/// Length of one machine's IPv6 prefix.
pub(crate) const IPV6_LENGTH: u8 = 64;
/// The number of machines in the pool.
const SLOTS: u32 = 1 << (IPV4_LENGTH - POOL_LENGTH);
/// The interface name inside the machine, the same as that of systemd-nspawn.
pub(crate) const GUEST_INTERFACE: &str = "host0";

/// Keys of the hashes. Changing one changes names or addresses of existing machines. The keys for names
/// (netif-util.c) and link-layer addresses (nspawn-network.c) are systemd's, so that both programs create the
/// same ones for a machine: its leases survive a move from one program to the other.
const NAME_KEY: u128 = 0xe190_a404_a8ef_4b51_8ccc_c33a_9f11_fca2;
pub(super) const HOST_MAC_KEY: u128 = 0x1a37_6fc7_46ec_450b_ada3_d531_0660_5db1;
pub(super) const GUEST_MAC_KEY: u128 = 0xc3c4_f919_b557_b21c_e6cf_1427_039c_eea2;
pub(super) const EXTRA_HOST_MAC_KEY: u128 = 0x48c7_f6b7_ea9d_4c9e_b728_d4de_91d5_bf66;
pub(super) const EXTRA_GUEST_MAC_KEY: u128 = 0xaf50_1761_cef9_4d35_840d_2b20_54be_ce59;
pub(super) const MACVLAN_MAC_KEY: u128 = 0x0013_6dbc_6683_4481_bb0c_f951_1f24_a66f;
const BRIDGE_MAC_KEY: u128 = 0x6a1f_05d0_c3b7_4e9a_9b52_71e8_0d4c_2f93;
const SLOT_KEY: u128 = 0xd38e_7015_6cb9_4f02_8a4d_95f3_217b_e06c;
const ULA_KEY: u128 = 0x402b_9fd6_e817_4a5c_b06e_c89a_53f1_7d21;

/// An address prefix: an address and the number of its leading bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPrefix {
    /// Any address of the prefix.
    pub(crate) address: IpAddr,
    /// Length in bits; a greater number than the family's width counts as the full width.
    pub(crate) length: u8,
}

impl AddressPrefix {
    /// Returns the prefix of a single address.
    pub(crate) fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Returns whether the two prefixes share an address.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let length = self.length.min(other.length);
        match (self.address, other.address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                u64::from(a.to_bits() ^ b.to_bits()) >> 32_u8.saturating_sub(length) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128 - u32::from(length.min(128))).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The two ends of a link in one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<A> {
    /// The host's address; the machine's gateway.
    pub(crate) host: A,
    /// The machine's address.
    pub guest: A,
}

/// Names and addresses of a machine's veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPlan {
    /// The machine.
    pub(crate) machine: Name,
    /// Name of the host's end, at most 15 characters.
    pub(crate) host_interface: String,
    /// The unabridged name of the host's end, if it is too long for an interface name.
    pub(crate) altname: Option<String>,
    /// Link-layer address of the host's end.
    pub(crate) host_mac: MacAddr,
    /// Link-layer address of the machine's end.
    pub guest_mac: MacAddr,
    /// The zone, if the host's end is a port of its bridge. The bridge then has the host's addresses.
    pub(crate) zone: Option<Zone>,
    /// Link-layer address of the interface with the host's addresses.
    pub(crate) router_mac: MacAddr,
    /// IPv4 addresses.
    pub ipv4: Pair<Ipv4Addr>,
    /// Length of their prefix.
    pub(crate) ipv4_length: u8,
    /// Whether the host has IPv6.
    pub(crate) has_ipv6: bool,
    /// IPv6 addresses, prefix length [`IPV6_LENGTH`].
    pub ipv6: Pair<Ipv6Addr>,
}

impl LinkPlan {
    /// Returns the interface of the host that receives the machine's packets.
    pub(crate) fn router_interface(&self) -> String {
        self.zone.as_ref().map_or_else(|| self.host_interface.clone(), Zone::bridge)
    }

    /// Returns the plan with this link-layer address of the machine's end, if it is given.
    #[must_use]
    pub(crate) fn with_guest_mac(mut self, mac: Option<MacAddr>) -> Self {
        if let Some(mac) = mac {
            self.guest_mac = mac;
            self.ipv6.guest = with_interface_id(self.ipv6.host, mac);
        }
        self
    }

    /// Returns the plan with the static addresses of a definition. A family without one keeps its addresses.
    #[must_use]
    pub(crate) fn with_static(mut self, network: &Network) -> Self {
        for own in &network.address {
            let gateway = network.gateway.iter().find(|gateway| own.contains(**gateway));
            match (own.address, gateway.copied().unwrap_or_else(|| own.default_host())) {
                (IpAddr::V4(guest), IpAddr::V4(host)) => {
                    self.ipv4 = Pair { host, guest };
                    self.ipv4_length = own.length;
                }
                (IpAddr::V6(guest), IpAddr::V6(host)) => self.ipv6 = Pair { host, guest },
                _ => {}
            }
        }
        self
    }

    /// Returns whether a guest may form an address of the IPv6 prefix by itself: in a zone, only the one that
    /// it has.
    pub(crate) fn is_autonomous(&self) -> bool {
        self.zone.is_none() || self.ipv6.guest == with_interface_id(self.ipv6.host, self.guest_mac)
    }

    /// Returns the IPv6 prefix of this link.
    pub(crate) fn ipv6_prefix(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.ipv6.host.to_bits() >> 64 << 64)
    }
}

/// Returns the plan for `machine` on the host with machine id `host_id`.
///
/// `taken` has all prefixes in use: addresses and routes of the host
/// ([`crate::network::veth::taken_prefixes`]) and the addresses recorded for other machines. A route wider
/// than the whole pool does not count, because the link's route is more specific; so a host in a `10.0.0.0/8`
/// network can have machines.
///
/// # Errors
/// All slots are in use.
pub fn plan(machine: &Name, host_id: Id128, taken: &[AddressPrefix]) -> Result<LinkPlan> {
    let first = siphash(SLOT_KEY, &[machine.as_str().as_bytes()]) % u64::from(SLOTS);
    let global = siphash(ULA_KEY, &[host_id.as_bytes()]);
    let counted: Vec<AddressPrefix> =
        taken.iter().copied().filter(|prefix| prefix.length >= POOL_LENGTH).collect();
    let free = |slot: &u32| {
        let own = [
            AddressPrefix { address: IpAddr::V4(ipv4(*slot).host), length: IPV4_LENGTH },
            AddressPrefix { address: IpAddr::V6(ipv6_host(global, *slot)), length: IPV6_LENGTH },
        ];
        !counted.iter().any(|prefix| own.iter().any(|one| one.overlaps(prefix)))
    };
    // Linear probing: with few machines each gets the slot of its name, independent of other machines.
    let slot = (0..SLOTS)
        .map(|step| (u32::try_from(first).unwrap_or(0) + step) % SLOTS)
        .find(free)
        .ok_or_else(|| {
            Error::new(format!("no free addresses for '{machine}': all of {POOL}/{POOL_LENGTH} are in use"))
                .with_hint("remove the conflicting route or address from the host, or set network.mode = \"host\" or \"none\"")
        })?;
    Ok(of_slot(machine, host_id, slot))
}

/// Returns whether Coracle assigns addresses of this network to machines of this host.
pub(crate) fn is_in_pool(address: IpAddr, host_id: Id128) -> bool {
    let [first, second] = [(POOL, POOL_LENGTH), (zone::POOL, zone::POOL_LENGTH)]
        .map(|(address, length)| AddressPrefix { address: address.into(), length });
    let global = siphash(ULA_KEY, &[host_id.as_bytes()]);
    let unique_local = AddressPrefix { address: ipv6_host(global, 0).into(), length: 48 };
    let own = AddressPrefix::host(address);
    [first, second, unique_local].iter().any(|pool| pool.overlaps(&own))
}

/// Returns the plan that led to this address. `None` if the address is outside of the pool.
pub(crate) fn plan_of_address(machine: &Name, host_id: Id128, address: Ipv4Addr) -> Option<LinkPlan> {
    let slot = address.to_bits().wrapping_sub(POOL.to_bits()) >> (32 - IPV4_LENGTH);
    (slot < SLOTS).then(|| of_slot(machine, host_id, slot)).filter(|plan| plan.ipv4.guest == address)
}

fn of_slot(machine: &Name, host_id: Id128, slot: u32) -> LinkPlan {
    let (host_interface, altname) = host_interface_name("ve-", machine);
    let guest_mac = mac(GUEST_MAC_KEY, host_id, machine, 0);
    let host_mac = mac(HOST_MAC_KEY, host_id, machine, 0);
    LinkPlan {
        machine: machine.clone(),
        host_interface,
        altname,
        host_mac,
        guest_mac,
        zone: None,
        router_mac: host_mac,
        ipv4: ipv4(slot),
        ipv4_length: IPV4_LENGTH,
        has_ipv6: true,
        ipv6: ipv6(siphash(ULA_KEY, &[host_id.as_bytes()]), slot, guest_mac),
    }
}

/// Returns the name of the host's end for a machine: `ve-NAME`, or `vb-NAME` for the port of a bridge; see
/// [`abridged`].
pub(crate) fn host_interface_name(prefix: &str, machine: &Name) -> (String, Option<String>) {
    abridged(format!("{prefix}{machine}"))
}

/// Returns an interface name. One that is too long is abridged to its first 11 characters and a hash of the
/// whole, as by systemd-nspawn; the unabridged name is then returned as well.
pub(crate) fn abridged(full: String) -> (String, Option<String>) {
    if full.len() <= INTERFACE_NAME_MAX {
        return (full, None);
    }
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let hash = siphash(NAME_KEY, &[full.as_bytes()]);
    let digits = [18, 12, 6, 0].map(|shift| char::from(DIGITS[(hash >> shift & 63) as usize]));
    let kept = full.chars().take(INTERFACE_NAME_MAX - digits.len());
    (kept.chain(digits).collect(), Some(full))
}

/// Returns the IPv4 pair of a slot.
fn ipv4(slot: u32) -> Pair<Ipv4Addr> {
    let base = POOL.to_bits() + (slot << (32 - IPV4_LENGTH));
    Pair { host: Ipv4Addr::from_bits(base + 1), guest: Ipv4Addr::from_bits(base + 2) }
}

/// Returns the host's IPv6 address of a slot: a unique local prefix (RFC 4193) of this host, with the slot as
/// subnet.
fn ipv6_host(global: u64, slot: u32) -> Ipv6Addr {
    let prefix = 0xfd_u128 << 120 | u128::from(global & 0xff_ffff_ffff) << 80 | u128::from(slot) << 64;
    Ipv6Addr::from_bits(prefix | 1)
}

/// Returns the IPv6 pair of a slot. The machine's address is the one formed by SLAAC from the prefix, so that
/// a guest configured by router advertisements has the same address.
fn ipv6(global: u64, slot: u32, guest_mac: MacAddr) -> Pair<Ipv6Addr> {
    let host = ipv6_host(global, slot);
    Pair { host, guest: with_interface_id(host, guest_mac) }
}

/// Returns the address of an interface in the network of another address.
fn with_interface_id(network: Ipv6Addr, mac: MacAddr) -> Ipv6Addr {
    Ipv6Addr::from_bits(network.to_bits() >> 64 << 64 | u128::from(mac.interface_id()))
}

/// Returns the link-local address of an interface.
pub(crate) fn link_local(mac: MacAddr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfe80_u128 << 112 | u128::from(mac.interface_id()))
}

/// Returns a stable link-layer address, the same as that of systemd-nspawn: of the interface with this number
/// among those of its kind, counted from 0.
pub(super) fn mac(key: u128, host_id: Id128, machine: &Name, number: u64) -> MacAddr {
    let suffix = number.to_le_bytes();
    let suffix = if number == 0 { &[][..] } else { &suffix[..] };
    hashed_mac(key, &[host_id.as_bytes(), machine.as_str().as_bytes(), suffix])
}

/// Returns the stable link-layer address of a zone's bridge.
fn bridge_mac(host_id: Id128, zone: &Zone) -> MacAddr {
    hashed_mac(BRIDGE_MAC_KEY, &[host_id.as_bytes(), b"zone:", zone.as_str().as_bytes()])
}

/// Returns the link-layer address of a hash: locally administered, unicast.
fn hashed_mac(key: u128, parts: &[&[u8]]) -> MacAddr {
    let [a, b, c, d, e, f, ..] = siphash(key, parts).to_le_bytes();
    MacAddr::local([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id128 = Id128::new([7; 16]);

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn prefix(address: &str, length: u8) -> AddressPrefix {
        AddressPrefix { address: address.parse().unwrap(), length }
    }

    #[test]
    fn long_names_are_abridged_and_kept_as_alternative() {
        assert_eq!(host_interface_name("ve-", &name("web")), ("ve-web".into(), None));
        assert_eq!(host_interface_name("ve-", &name("exactly-12ch")).0, "ve-exactly-12ch");
        let (short, full) = host_interface_name("ve-", &name("exactly-13chr"));
        assert_eq!((short.len(), &short[..11]), (15, "ve-exactly-"));
        assert_eq!(full.as_deref(), Some("ve-exactly-13chr"));
        assert_ne!(short, host_interface_name("ve-", &name("exactly-13cht")).0);
    }

    #[test]
    fn a_plan_is_stable_and_mac_addresses_depend_on_the_host() {
        let one = plan(&name("web"), ID, &[]).unwrap();
        assert_eq!(one, plan(&name("web"), ID, &[]).unwrap());
        let other = plan(&name("web"), Id128::new([8; 16]), &[]).unwrap();
        assert_eq!(one.ipv4, other.ipv4);
        assert_ne!(one.host_mac, other.host_mac);
        assert_ne!(one.host_mac, one.guest_mac);
        assert_eq!(one.host_mac.octets()[0] & 3, 2, "locally administered, unicast");
        assert_eq!(one.guest_mac.octets()[0] & 3, 2);
    }

    #[test]
    fn link_layer_addresses_are_hashes_of_host_machine_and_number() {
        let vectors = [
            (HOST_MAC_KEY, 0, [0xc2, 0x5f, 0x8f, 0x56, 0xae, 0xe5]),
            (GUEST_MAC_KEY, 0, [0x5a, 0x16, 0x6a, 0xee, 0x70, 0x9a]),
            (EXTRA_HOST_MAC_KEY, 1, [0xca, 0x5f, 0x28, 0x86, 0x75, 0x6c]),
            (EXTRA_GUEST_MAC_KEY, 1, [0xfa, 0x31, 0x1b, 0x3a, 0x64, 0x8d]),
            (MACVLAN_MAC_KEY, 1, [0x36, 0xe0, 0xa6, 0x63, 0xa2, 0x3f]),
        ];
        for (key, number, octets) in vectors {
            assert_eq!(mac(key, ID, &name("web"), number).octets(), octets, "{key:x}");
        }
    }

    #[test]
    fn prefixes_in_use_are_skipped() {
        let free = plan(&name("web"), ID, &[]).unwrap();
        let beside = plan(&name("web"), ID, &[AddressPrefix::host(free.ipv4.host.into())]).unwrap();
        assert_eq!(
            plan_of_address(&name("web"), ID, beside.ipv4.guest),
            Some(beside),
            "a reboot changes nothing"
        );
        assert_eq!(plan_of_address(&name("web"), ID, free.ipv4.host), None);
        assert_eq!(plan_of_address(&name("web"), ID, Ipv4Addr::new(10, 178, 0, 2)), None);
        for taken in [
            AddressPrefix::host(IpAddr::V4(free.ipv4.guest)),
            AddressPrefix { address: IpAddr::V4(free.ipv4.host), length: 24 },
            AddressPrefix::host(IpAddr::V6(free.ipv6.guest)),
        ] {
            let next = plan(&name("web"), ID, &[taken]).unwrap();
            assert_ne!(next.ipv4, free.ipv4, "{taken:?}");
            assert!(!taken.overlaps(&AddressPrefix { address: next.ipv4.host.into(), length: IPV4_LENGTH }));
        }
        let wide = [prefix("10.0.0.0", 8), prefix("0.0.0.0", 0), prefix("::", 0)];
        assert_eq!(plan(&name("web"), ID, &wide).unwrap(), free);
    }

    #[test]
    fn a_full_pool_is_an_error_with_a_hint() {
        let error = plan(&name("web"), ID, &[prefix("10.177.0.0", 16)]).unwrap_err();
        assert!(error.to_string().contains("10.177.0.0/16"), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn pairs_lie_in_their_pools() {
        for slot in [0, 1, SLOTS - 1] {
            let pair = ipv4(slot);
            assert_eq!(pair.host.octets()[..2], [10, 177]);
            assert_eq!(pair.host.octets()[3] % 4, 1);
            assert_eq!(pair.guest.octets()[3] % 4, 2);
            let pair = ipv6(0x1234, slot, MacAddr::local([2, 0, 0, 1, 2, 3]));
            assert_eq!(pair.host.octets()[0], 0xfd);
            assert_eq!(pair.guest.octets()[8..], [0, 0, 0, 0xff, 0xfe, 1, 2, 3]);
        }
        assert_eq!(ipv4(SLOTS - 1).guest, Ipv4Addr::new(10, 177, 255, 254));
    }

    #[test]
    fn overlap_is_symmetric_and_never_across_families() {
        let (wide, narrow) = (prefix("10.1.0.0", 16), prefix("10.1.2.3", 32));
        assert!(wide.overlaps(&narrow) && narrow.overlaps(&wide));
        assert!(!prefix("10.2.0.0", 16).overlaps(&narrow));
        assert!(prefix("0.0.0.0", 0).overlaps(&narrow));
        assert!(prefix("::", 0).overlaps(&prefix("fd00::1", 128)));
        assert!(!prefix("::", 0).overlaps(&narrow));
        assert!(!prefix("fd00::", 200).overlaps(&prefix("fd00::1", 128)));
    }
}
