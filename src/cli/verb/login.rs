//! `coracle login`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb};
use crate::cli::arguments::MachineName;
use crate::cli::arguments::terminal_options;
use crate::control::{exec, login};
use crate::error::Result;
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
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let options = terminal_options().with_flag("no-escape", self.no_escape);
        Ask::new(AskVerb::Login, vec![self.machine.name.clone()], options, Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        Ok(exec::exec(paths, &login::login(paths, &self.machine.name, !self.no_escape)?)?)
    }
}
