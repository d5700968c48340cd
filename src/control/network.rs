//! `coracle network`: zones, addresses, ports and dropped packets, from the state records and the kernel.

use super::graph::{GraphNode, NodeKind};
use super::printable;
use crate::error::Result;
use crate::machine::network::Zone;
use crate::network::firewall::counters;
pub(crate) use crate::network::firewall::counters::Dropped as Chain;
use crate::paths::Paths;
use crate::state::record::Record;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The output of `network`. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct NetworkReport {
    /// The zones with running machines.
    pub(crate) zones: Vec<ZoneRow>,
    /// The machines with a link or other interfaces.
    pub(crate) machines: Vec<MachineRow>,
    /// The chains of the firewall.
    pub(crate) chains: Vec<Chain>,
}

/// A zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ZoneRow {
    /// Its name.
    pub(crate) zone: String,
    /// Its bridge.
    pub(crate) bridge: String,
    /// The host's addresses on the bridge.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its machines.
    pub(crate) machines: Vec<String>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct MachineRow {
    /// Its name.
    pub(crate) name: String,
    /// Its zone.
    pub(crate) zone: Option<String>,
    /// The host's end of its link.
    pub(crate) interface: Option<String>,
    /// Its addresses, also offered by DHCP and router advertisements.
    pub(crate) addresses: Vec<IpAddr>,
    /// The host's addresses on its link: its gateways.
    pub(crate) gateways: Vec<IpAddr>,
    /// Ports of the host that are forwarded to it.
    pub(crate) ports: Vec<String>,
    /// Its other interfaces: kind, name on the host, name inside.
    pub(crate) interfaces: Vec<String>,
}

/// Collects the networks of running machines.
///
/// # Errors
/// The kernel does not list the firewall rules.
pub(crate) fn collect(paths: &Paths) -> Result<NetworkReport> {
    let records: Vec<Record> = Record::all(paths).into_iter().filter(Record::is_alive).collect();
    let mut zones: BTreeMap<&Zone, ZoneRow> = BTreeMap::new();
    for record in &records {
        let Some(zone) = &record.zone else { continue };
        let row = zones.entry(zone).or_insert_with(|| ZoneRow {
            zone: zone.to_string(),
            bridge: zone.bridge(),
            addresses: Vec::new(),
            machines: Vec::new(),
        });
        row.machines.push(record.name.to_string());
        if row.addresses.is_empty() {
            row.addresses.clone_from(&record.host_addresses);
        }
    }
    let is_connected = |record: &&Record| record.host_interface.is_some() || !record.interfaces.is_empty();
    Ok(NetworkReport {
        zones: zones.into_values().collect(),
        machines: records.iter().filter(is_connected).map(MachineRow::of).collect(),
        chains: counters::dropped()?,
    })
}

/// Returns the graph of the network: the host, its zones and interfaces, and the machines connected to them.
pub(crate) fn graph(paths: &Paths) -> GraphNode {
    let records: Vec<Record> = Record::all(paths).into_iter().filter(Record::is_alive).collect();
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut host = GraphNode::new(NodeKind::Host, printable(&name));
    for record in &records {
        let mut machine =
            GraphNode::new(NodeKind::Machine, record.name.to_string()).with_lines(addresses(record));
        let again = GraphNode { lines: Vec::new(), ..machine.clone() };
        if let Some(link) = record.host_interface.as_deref() {
            let node = std::mem::replace(&mut machine, again.clone()).with_edge(printable(link));
            match &record.zone {
                Some(zone) => below(&mut host, zone_node(zone, record)).children.push(node),
                None => host.children.push(node),
            }
        }
        for interface in &record.interfaces {
            let (word, peer) = (interface.word(), printable(interface.peer()));
            let label = format!("{word} {}", printable(interface.inside()));
            let node = std::mem::replace(&mut machine, again.clone());
            match word {
                "veth" => host.children.push(node.with_edge(format!("{peer}: {label}"))),
                _ => below(&mut host, link_node(word, &peer)).children.push(node.with_edge(label)),
            }
        }
    }
    host
}

/// Returns the child of `node` with kind and title of `child`, which is added if there is none.
fn below(node: &mut GraphNode, child: GraphNode) -> &mut GraphNode {
    let is_same = |known: &GraphNode| known.kind == child.kind && known.title == child.title;
    let at = node.children.iter().position(is_same).unwrap_or_else(|| {
        node.children.push(GraphNode { lines: Vec::new(), ..child.clone() });
        node.children.len() - 1
    });
    let known = &mut node.children[at];
    if known.lines.is_empty() {
        known.lines = child.lines;
    }
    known
}

fn zone_node(zone: &Zone, record: &Record) -> GraphNode {
    let host = record.host_addresses.iter().map(ToString::to_string);
    link_node("zone", &zone.bridge()).with_lines(std::iter::once(format!("zone {zone}")).chain(host))
}

/// Returns the node of an interface of the host.
fn link_node(word: &str, peer: &str) -> GraphNode {
    let title = match word {
        "bridge" | "zone" => format!("bridge {peer}"),
        _ => format!("interface {peer}"),
    };
    GraphNode::new(NodeKind::Link, title)
}

/// Returns the addresses and forwarded ports of a machine.
fn addresses(record: &Record) -> impl Iterator<Item = String> {
    let ports = record.ports();
    let ports: Vec<String> = ports.iter().map(|port| format!("port {port}")).collect();
    let addresses: Vec<String> = record.addresses.iter().map(ToString::to_string).collect();
    addresses.into_iter().chain(ports)
}

impl MachineRow {
    fn of(record: &Record) -> Self {
        Self {
            name: record.name.to_string(),
            zone: record.zone.as_ref().map(ToString::to_string),
            interface: record.host_interface.clone(),
            addresses: record.addresses.clone(),
            gateways: record.host_addresses.clone(),
            ports: record.ports().iter().map(ToString::to_string).collect(),
            interfaces: record.interfaces.iter().map(ToString::to_string).collect(),
        }
    }

    /// Returns the cells of its row.
    pub(crate) fn cells(&self) -> Vec<String> {
        let words = |words: Vec<String>| if words.is_empty() { "-".to_owned() } else { words.join(" ") };
        let texts = |addresses: &[IpAddr]| words(addresses.iter().map(ToString::to_string).collect());
        vec![
            self.name.clone(),
            self.zone.clone().unwrap_or_else(|| "-".to_owned()),
            self.interface.as_deref().map_or_else(|| "-".to_owned(), printable),
            texts(&self.addresses),
            words(self.ports.clone()),
            words(self.interfaces.clone()),
        ]
    }
}

/// The columns of [`MachineRow::cells`].
pub(crate) const COLUMNS: [&str; 6] = ["NAME", "ZONE", "LINK", "ADDRESSES", "PORTS", "INTERFACES"];
