//! The static addresses of the first interface of a machine's mode.

use super::ExtraInterface;
use crate::machine::network::{InterfaceKind, Mode, Network};
use std::net::IpAddr;

impl ExtraInterface {
    /// Gives the static addresses of a machine to the first interface of its mode.
    pub(super) fn give_static(interfaces: &mut [Self], network: &Network) {
        if let Some(main) = interfaces.iter_mut().find(|interface| interface.is_of_mode(network.mode)) {
            main.addresses.clone_from(&network.address);
            main.gateways.clone_from(&network.gateway);
        }
    }

    /// Returns whether it is of the kind that a mode requires.
    fn is_of_mode(&self, mode: Mode) -> bool {
        match mode {
            Mode::Bridge => self.bridge.is_some(),
            Mode::Macvlan => self.kind == InterfaceKind::Macvlan,
            Mode::Ipvlan => self.kind == InterfaceKind::Ipvlan,
            _ => false,
        }
    }

    /// Returns its static addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|own| own.address)
    }

    /// Returns its name inside, if it has static addresses.
    pub(crate) fn addressed(&self) -> Option<&str> {
        (!self.addresses.is_empty()).then_some(self.inside.as_str())
    }

    /// Returns whether both have the same bridge or lower interface of the host.
    pub(crate) fn shares_network_with(&self, other: &Self) -> bool {
        let of = |interface: &Self| match interface.kind {
            InterfaceKind::Macvlan | InterfaceKind::Ipvlan => Some(interface.host.clone()),
            _ => interface.bridge.clone(),
        };
        of(self).is_some_and(|own| of(other) == Some(own))
    }

    /// Uses the static addresses that the definition has at a reboot.
    pub(crate) fn use_addresses_of(&mut self, defined: &[Self]) {
        let is_same = |new: &&Self| new.kind == self.kind && new.inside == self.inside;
        if let Some(new) = defined.iter().find(is_same) {
            self.addresses.clone_from(&new.addresses);
            self.gateways.clone_from(&new.gateways);
        }
    }
}
