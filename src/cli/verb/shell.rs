//! `coracle shell`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb};
use crate::cli::arguments::EntryOptions;
use crate::control::{exec, login};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Open a login shell in a running machine
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// Open a session of the user, registered with logind of the machine
    #[arg(long)]
    session: bool,

    #[command(flatten)]
    entry: EntryOptions,
}

impl ShellArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let request = self.entry.request(&self.name, &[])?;
        let options = self.entry.options(&request).with_flag("session", self.session);
        Ask::new(AskVerb::Shell, vec![self.name.clone()], options, Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let mut request = self.entry.request(&self.name, &[])?;
        if self.session {
            login::as_session(paths, &mut request)?;
        }
        Ok(exec::exec(paths, &request)?)
    }
}
