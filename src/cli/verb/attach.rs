//! `coracle attach`.

use super::VerbResult;
use crate::cli::arguments::MachineName;
use crate::control::attach::{self, AttachEnd};
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
