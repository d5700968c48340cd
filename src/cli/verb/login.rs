//! `coracle login`.

use super::Outcome;
use crate::cli::arguments::MachineName;
use crate::control::{exec, login};
use crate::paths::Paths;
use clap::Args;

/// Open a login prompt of a running machine
#[derive(Debug, Args)]
pub struct Login {
    #[command(flatten)]
    machine: MachineName,
}

impl Login {
    pub(super) fn run(self, paths: &Paths) -> Outcome {
        Ok(exec::exec(paths, &login::login(paths, &self.machine.name)?)?)
    }
}
