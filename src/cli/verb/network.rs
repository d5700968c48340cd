//! `coracle network` and `coracle network reload`.

use super::VerbResult;
use crate::cli::arguments::GraphOption;
use crate::cli::output::{self, Align, Legend};
use crate::control::network::{self, COLUMNS, Chain, MachineRow, ZoneRow};
use crate::error::Result;
use crate::machine::size::rounded as size;
use crate::paths::Paths;
use clap::{Args, Subcommand};
use std::net::IpAddr;

/// Show zones, machines, addresses, ports, and packets dropped by the firewall
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(subcommand_value_name = "ACTION", subcommand_help_heading = "Actions")]
pub struct NetworkArgs {
    #[command(subcommand)]
    action: Option<NetworkCommand>,

    #[command(flatten)]
    graph: GraphOption,

    /// Print JSON
    #[arg(long, conflicts_with = "graph")]
    json: bool,
}

/// An action on the network.
#[derive(Debug, Subcommand)]
enum NetworkCommand {
    /// Recreate the firewall rules of all machines, after another program has deleted them
    Reload,
}

impl NetworkArgs {
    /// Returns whether an action is requested, not the tables.
    pub(super) fn is_request(&self) -> bool {
        self.action.is_some()
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        match self.action {
            Some(NetworkCommand::Reload) => crate::run::reload_firewall(paths)?,
            None => self.show(paths)?,
        }
        Ok(0)
    }

    fn show(&self, paths: &Paths) -> Result<()> {
        if let Some(format) = self.graph.graph {
            return output::text(&network::graph(paths).format(format));
        }
        let found = network::collect(paths)?;
        if self.json {
            return output::json(&found);
        }
        let mut tables = Vec::new();
        if !found.zones.is_empty() {
            tables.push(zones(&found.zones));
        }
        tables.push(machines(&found.machines));
        if !found.chains.is_empty() {
            tables.push(chains(&found.chains));
        }
        output::text(&tables.join("\n"))
    }
}

fn left(names: &[&'static str]) -> Vec<(&'static str, Align)> {
    names.iter().map(|name| (*name, Align::Left)).collect()
}

fn zones(zones: &[ZoneRow]) -> String {
    let cells = |zone: &ZoneRow| {
        let addresses: Vec<String> = zone.addresses.iter().map(IpAddr::to_string).collect();
        vec![zone.zone.clone(), zone.bridge.clone(), addresses.join(" "), zone.machines.join(" ")]
    };
    let rows: Vec<_> = zones.iter().map(cells).collect();
    output::table(&left(&["ZONE", "BRIDGE", "HOST", "MACHINES"]), &rows, Legend::Shown)
}

fn machines(machines: &[MachineRow]) -> String {
    let rows: Vec<_> = machines.iter().map(MachineRow::cells).collect();
    output::table(&left(&COLUMNS), &rows, Legend::Shown)
}

/// Returns the table of firewall chains that drop packets.
fn chains(chains: &[Chain]) -> String {
    let cells = |chain: &Chain| {
        vec![
            chain.table.clone(),
            chain.chain.clone(),
            chain.rules.to_string(),
            chain.packets.to_string(),
            size(chain.bytes),
        ]
    };
    let rows: Vec<_> = chains.iter().map(cells).collect();
    let columns = [
        ("TABLE", Align::Left),
        ("CHAIN", Align::Left),
        ("RULES", Align::Right),
        ("DROPPED", Align::Right),
        ("BYTES", Align::Right),
    ];
    output::table(&columns, &rows, Legend::Shown)
}
