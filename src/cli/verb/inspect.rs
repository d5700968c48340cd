//! `coracle inspect`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::GraphOption;
use crate::cli::output;
use crate::control::inspect::{self, Inspection};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Show how a machine is isolated: namespaces, mounts, capabilities, limits
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// Score the exposure of the host to the machine, with reasons
    #[arg(long, conflicts_with = "graph")]
    security: bool,

    #[command(flatten)]
    graph: GraphOption,

    /// Print JSON
    #[arg(long, conflicts_with = "graph")]
    json: bool,
}

impl InspectArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        Ask::new(AskVerb::Inspect, vec![self.name.clone()], Options::default(), Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        self.print(&inspect::collect(paths, &self.name)?)
    }

    /// Prints an inspection.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(in crate::cli) fn print(&self, found: &Inspection) -> VerbResult {
        if let Some(format) = self.graph.graph {
            output::text(&found.graph().format(format))?;
            return Ok(0);
        }
        let exposure = inspect::score(found);
        let mut text = Vec::new();
        match (self.security, self.json) {
            (true, true) => output::json(&exposure)?,
            (false, true) => output::json(found)?,
            (true, false) => exposure.write(&mut text)?,
            (false, false) => found.write(&mut text)?,
        }
        output::text(&String::from_utf8_lossy(&text))?;
        Ok(0)
    }
}
