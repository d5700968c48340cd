//! `network`: three tables. Called by `main`.

use super::output::{self, Align, Legend};
use crate::control::network::{self, COLUMNS, MachineRow};
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;
use std::net::IpAddr;

/// `network`.
#[derive(Debug, Args)]
pub struct Network {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `network`.
///
/// # Errors
/// What the kernel does not list, or standard output that cannot be written.
pub fn network(paths: &Paths, wanted: &Network) -> Result<()> {
    let found = network::look(paths)?;
    if wanted.json {
        return output::json(&found);
    }
    let left = |names: &[&'static str]| names.iter().map(|name| (*name, Align::Left)).collect::<Vec<_>>();
    let mut text = String::new();
    if !found.zones.is_empty() {
        let cells = |zone: &network::ZoneRow| {
            let addresses: Vec<String> = zone.addresses.iter().map(IpAddr::to_string).collect();
            vec![zone.zone.clone(), zone.bridge.clone(), addresses.join(" "), zone.machines.join(" ")]
        };
        let rows: Vec<_> = found.zones.iter().map(cells).collect();
        text += &output::table(&left(&["ZONE", "BRIDGE", "HOST", "MACHINES"]), &rows, Legend::Shown);
        text.push('\n');
    }
    let rows: Vec<_> = found.machines.iter().map(MachineRow::cells).collect();
    text += &output::table(&left(&COLUMNS), &rows, Legend::Shown);
    if !found.chains.is_empty() {
        let cells = |chain: &crate::control::network::Chain| {
            vec![
                chain.table.clone(),
                chain.chain.clone(),
                chain.rules.to_string(),
                chain.packets.to_string(),
                crate::control::list::size(chain.bytes),
            ]
        };
        let rows: Vec<_> = found.chains.iter().map(cells).collect();
        let columns = [
            ("TABLE", Align::Left),
            ("CHAIN", Align::Left),
            ("RULES", Align::Right),
            ("DROPPED", Align::Right),
            ("BYTES", Align::Right),
        ];
        text.push('\n');
        text += &output::table(&columns, &rows, Legend::Shown);
    }
    output::text(&text)
}
