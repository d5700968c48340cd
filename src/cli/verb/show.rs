//! `coracle show`.

use super::VerbResult;
use crate::cli::arguments::RunningMachines;
use crate::cli::output;
use crate::control::{named_or_running, show};
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;

/// Show all properties of machines, for programs
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    machines: RunningMachines,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Print this property only; may be repeated
    #[arg(short, long, value_name = "PROPERTY")]
    property: Vec<String>,
}

impl ShowArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let named = self.machines.names.len();
        let names = named_or_running(paths, self.machines.names);
        let properties = |name| show::properties(paths, name, &self.property);
        let all = names.iter().map(properties).collect::<Result<Vec<_>>>()?;
        if self.json {
            let values: Vec<_> = all.iter().map(show::Properties::to_json).collect();
            match (values.as_slice(), named) {
                ([one], 1) => output::json(one)?,
                _ => output::json(&values)?,
            }
            return Ok(0);
        }
        for (number, properties) in all.iter().enumerate() {
            let mut text = if number > 0 { vec![b'\n'] } else { Vec::new() };
            properties.write(&mut text)?;
            output::text(&String::from_utf8_lossy(&text))?;
        }
        Ok(0)
    }
}
