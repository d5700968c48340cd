//! `coracle attach`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb};
use crate::cli::arguments::MachineName;
use crate::cli::arguments::terminal_options;
use crate::control::attach::{self, AttachEnd};
use crate::error::Result;
use crate::paths::Paths;
use clap::Args;
use rustix::termios;

/// Attach to the console of a running machine
///
/// Shows the last 64 KiB of the console first. Type '^]' three times within a second to detach. The exit
/// status is 0 after a detach and after the end of the machine.
#[derive(Debug, Args)]
pub struct AttachArgs {
    #[command(flatten)]
    machine: MachineName,
}

impl AttachArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        Ask::new(AskVerb::Attach, vec![self.machine.name.clone()], terminal_options(), Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let name = &self.machine.name;
        if termios::isatty(rustix::stdio::stdin()) {
            log::info!("attached to machine '{name}'; type ^] three times within a second to detach");
        }
        match attach::attach(paths, name)? {
            AttachEnd::Detached => log::info!("detached from machine '{name}'"),
            AttachEnd::Machine => log::info!("machine '{name}' ended"),
            AttachEnd::Signal | AttachEnd::Reader => {}
        }
        Ok(0)
    }
}
