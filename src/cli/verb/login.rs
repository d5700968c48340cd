//! `coracle login`.

use super::VerbResult;
use crate::cli::arguments::MachineName;
use crate::control::{exec, login};
use crate::paths::Paths;
use clap::Args;

/// Open a login prompt of a running machine
#[derive(Debug, Args)]
pub struct LoginArgs {
    #[command(flatten)]
    machine: MachineName,

    /// Pass on ^] instead of disconnecting when it is typed three times within a second
    #[arg(long)]
    no_escape: bool,
}

impl LoginArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        Ok(exec::exec(paths, &login::login(paths, &self.machine.name, !self.no_escape)?)?)
    }
}
