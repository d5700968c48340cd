//! `[network]`: the connection, its interfaces, ports, name resolution and restrictions.

mod egress;
mod interfaces;
mod ports;

use super::problem::Problem;
use super::profile::Profile;
use super::setting::{List, Origin, Single, settings};
use super::values::{CountLimit, RawValue, Value, quoted, words};
use crate::error::{Error, Result};
use crate::machine::egress::Destination;
use crate::machine::mac_addr::MacAddr;
use crate::machine::network::{
    Addresses, HostsMode, Interface, InterfaceKind, InterfaceName, InterfaceNames, Mode, Network, Port,
    ResolvConf, ResolvFile, ResolvMethod, Zone,
};
use crate::machine::static_address::StaticAddress;
use crate::paths::Paths;
use egress::Rate;
use std::net::IpAddr;
use std::path::PathBuf;

settings! {
    /// Settings of the network.
    NetworkSettings {
        /// The kind of connection.
        mode: Single<Mode> = Single "network.mode", |profile| if profile.is_of_nspawn() {
            Mode::Host
        } else {
            Mode::Veth
        };
        /// The configuration of its links.
        addresses: Single<Addresses> = Single "network.addresses", |_| Addresses::Auto;
        /// The static addresses of the machine.
        address: List<StaticAddress> = SingleOrList "network.address";
        /// The routers of their networks.
        gateway: List<IpAddr> = SingleOrList "network.gateway";
        /// The link-layer address of the machine.
        mac: Single<MacAddr> = FlagOnly "network-mac";
        /// The zone of the machine.
        zone: Single<Zone> = Single "network.zone";
        /// The bridge of the host to which its link is attached.
        bridge: Single<InterfaceName> = Single "network.bridge";
        /// Interfaces of the host with a macvlan for the machine.
        macvlan: List<InterfaceNames> = List "network.macvlan";
        /// Interfaces of the host with an ipvlan for the machine.
        ipvlan: List<InterfaceNames> = List "network.ipvlan";
        /// Interfaces of the host that are moved into the machine.
        interface: List<InterfaceNames> = List "network.interface";
        /// Additional veth pairs.
        veth_extra: List<InterfaceNames> = List "network.veth-extra";
        /// Whether the host forwards packets from the additional veth pairs.
        veth_extra_routed: Single<bool> = Single "network.veth-extra-routed", |_| false;
        /// The network namespace that the machine joins.
        namespace: Single<PathBuf> = Single "network.namespace-path";
        /// The handling of the guest's resolv.conf(5).
        resolv_conf: Single<ResolvConf> = Single "network.resolv-conf", |_| ResolvConf::Auto;
        /// Whether names are added to the guest's hosts(5).
        hosts: Single<HostsMode> = Single "network.hosts", |profile| if profile == Profile::Nspawn {
            HostsMode::Off
        } else {
            HostsMode::Auto
        };
        /// Ports of the host that are forwarded to the machine.
        ports: List<Port> = List "network.ports";
        /// Forwarded ports that start the machine.
        on_demand: List<Port> = List "network.on-demand";
        /// Destinations to which the machine may open connections.
        egress: List<Destination> = SingleOrList "network.egress";
        /// The maximum rate of packets to the machine.
        rate_in: Single<Rate> = Single "network.rate-in";
        /// The maximum rate of packets from the machine.
        rate_out: Single<Rate> = Single "network.rate-out";
        /// The maximum number of connections that the machine opens.
        connections_max: Single<CountLimit> = Single "network.connections-max";
    }
}

impl NetworkSettings {
    /// Sets what other settings imply, before the defaults are set: the mode of a zone, bridge or namespace, and
    /// the plain links of systemd-nspawn(1).
    pub(super) fn fill_implied(&mut self, profile: Profile) {
        if profile == Profile::Nspawn {
            self.addresses.fill(|| Addresses::None);
        }
        if self.zone.value().is_some() {
            self.mode.fill(|| Mode::Zone);
        } else if self.bridge.value().is_some() {
            self.mode.fill(|| Mode::Bridge);
        } else if self.namespace.value().is_some() {
            self.mode.fill(|| Mode::Namespace);
        }
    }

    /// Sets the mode that the options or a file of systemd-nspawn(1) request, the most specific one: a bridge
    /// or zone includes a link to the host. `veth` and `private` are the origins of such requests.
    pub(crate) fn set_requested_mode(&mut self, veth: Option<Origin>, private: Option<Origin>) {
        let first = |list: &List<InterfaceNames>| list.sourced().first().map(|names| names.origin.clone());
        let zone = self.zone.value().map(|_| self.zone.origin());
        let bridge = self.bridge.value().map(|_| self.bridge.origin());
        let namespace = self.namespace.value().map(|_| self.namespace.origin());
        let requests = [
            (zone, Mode::Zone),
            (bridge, Mode::Bridge),
            (veth, Mode::Veth),
            (namespace, Mode::Namespace),
            (first(&self.interface), Mode::Interface),
            (first(&self.macvlan), Mode::Macvlan),
            (first(&self.ipvlan), Mode::Ipvlan),
            (first(&self.veth_extra), Mode::None),
            (private, Mode::None),
        ];
        if let Some((origin, mode)) = requests.into_iter().find_map(|(origin, mode)| Some((origin?, mode))) {
            self.mode.set(mode, origin);
        }
    }

    /// Builds the network of the machine.
    pub(super) fn build(&self, paths: &Paths) -> Result<Network> {
        let namespace = self.namespace.value().cloned();
        Ok(Network {
            mode: self.mode.required("network.mode")?,
            addresses: self.addresses.required("network.addresses")?,
            address: self.address.values().copied().collect(),
            gateway: self.gateway.values().copied().collect(),
            mac: self.mac.value().copied(),
            zone: self.zone.value().cloned(),
            bridge: self.bridge.value().cloned(),
            namespace: namespace.map(|path| self.namespace.origin().host_path(paths, path)),
            interfaces: self.interfaces(),
            veth_extra_routed: self.veth_extra_routed.required("network.veth-extra-routed")?,
            resolv_conf: self.resolv_conf.required("network.resolv-conf")?,
            hosts: self.hosts.required("network.hosts")?,
            ports: self.ports.values().chain(self.on_demand.values()).copied().collect(),
            on_demand: self.on_demand.values().copied().collect(),
            egress: self.egress.values().copied().collect(),
            rate_in: self.rate_in.value().and_then(|rate| rate.0),
            rate_out: self.rate_out.value().and_then(|rate| rate.0),
            connections_max: self.connections_max.value().map(|limit| limit.0),
        })
    }

    fn interfaces(&self) -> Vec<Interface> {
        let all = |kind, list: &List<InterfaceNames>| -> Vec<Interface> {
            list.values().map(|names| Interface { kind, names: names.clone() }).collect()
        };
        [
            all(InterfaceKind::Moved, &self.interface),
            all(InterfaceKind::Macvlan, &self.macvlan),
            all(InterfaceKind::Ipvlan, &self.ipvlan),
            all(InterfaceKind::Veth, &self.veth_extra),
        ]
        .concat()
    }

    /// Returns warnings for interfaces to which `network.egress` does not apply: their packets bypass the
    /// firewall of the host.
    pub(super) fn warnings(&self) -> Vec<Problem> {
        if self.egress.values().all(|destination| *destination == Destination::Any) {
            return Vec::new();
        }
        let is_routed = self.veth_extra_routed.value() == Some(&true);
        let routed = Some(&self.veth_extra).filter(|_| is_routed);
        let lists = [&self.macvlan, &self.ipvlan, &self.interface].into_iter().chain(routed);
        lists
            .flat_map(List::sourced)
            .map(|names| {
                let host = names.value.host.as_str();
                let text = format!("network.egress does not restrict packets sent through '{host}'");
                Problem::warning(&names.origin, text)
            })
            .collect()
    }
}

words!(
    Mode,
    [
        ("veth", Mode::Veth),
        ("zone", Mode::Zone),
        ("bridge", Mode::Bridge),
        ("macvlan", Mode::Macvlan),
        ("ipvlan", Mode::Ipvlan),
        ("interface", Mode::Interface),
        ("namespace", Mode::Namespace),
        ("host", Mode::Host),
        ("none", Mode::None),
    ]
);

words!(Addresses, [("auto", Addresses::Auto), ("none", Addresses::None)]);

impl Value for StaticAddress {
    fn read(raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Text(text) => text.parse(),
            _ => Err(raw.expected("an address such as \"192.168.50.7/24\"")),
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Value for IpAddr {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("an IP address")) };
        text.parse().map_err(|_| Error::new(format!("{} is not an IP address", quoted(text))))
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

words!(HostsMode, [("auto", HostsMode::Auto), ("off", HostsMode::Off)]);

words!(
    ResolvConf,
    [
        ("auto", ResolvConf::Auto),
        ("off", ResolvConf::Off),
        ("delete", ResolvConf::Delete),
        ("copy-host", ResolvConf::From(ResolvMethod::Copy, ResolvFile::Host)),
        ("copy-static", ResolvConf::From(ResolvMethod::Copy, ResolvFile::Static)),
        ("copy-uplink", ResolvConf::From(ResolvMethod::Copy, ResolvFile::Uplink)),
        ("copy-stub", ResolvConf::From(ResolvMethod::Copy, ResolvFile::Stub)),
        ("replace-host", ResolvConf::From(ResolvMethod::Replace, ResolvFile::Host)),
        ("replace-static", ResolvConf::From(ResolvMethod::Replace, ResolvFile::Static)),
        ("replace-uplink", ResolvConf::From(ResolvMethod::Replace, ResolvFile::Uplink)),
        ("replace-stub", ResolvConf::From(ResolvMethod::Replace, ResolvFile::Stub)),
        ("bind-host", ResolvConf::From(ResolvMethod::Bind, ResolvFile::Host)),
        ("bind-static", ResolvConf::From(ResolvMethod::Bind, ResolvFile::Static)),
        ("bind-uplink", ResolvConf::From(ResolvMethod::Bind, ResolvFile::Uplink)),
        ("bind-stub", ResolvConf::From(ResolvMethod::Bind, ResolvFile::Stub)),
    ]
);
