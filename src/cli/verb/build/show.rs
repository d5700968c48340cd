//! `coracle build show`.

use crate::cli::output;
use crate::cli::verb::VerbResult;
use crate::control::build::list;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Show a session and the commands that have run in it
#[derive(Debug, Args)]
pub(super) struct BuildShowArgs {
    /// The session
    #[arg(value_name = "SESSION", value_parser = Name::new)]
    session: Name,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl BuildShowArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let report = list::show(paths, &self.session)?;
        output::report(&report, self.json, &report.text())?;
        Ok(0)
    }
}
