//! `coracle build run`.

use crate::cli::arguments::EntryOptions;
use crate::cli::verb::VerbResult;
use crate::control::build::run::{self, RunOptions};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use std::ffi::OsString;
use std::time::Duration;

/// Run a command in a session
///
/// It runs as the build user. The exit status is that of the command. Processes that it leaves are killed.
#[derive(Debug, Args)]
pub(super) struct BuildRunArgs {
    /// The session
    #[arg(value_name = "SESSION", value_parser = Name::new)]
    session: Name,

    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,

    #[command(flatten)]
    entry: EntryOptions,

    #[command(flatten)]
    limits: CommandLimits,
}

/// The options of a command that only sessions have.
#[derive(Debug, Default, Args)]
pub(super) struct CommandLimits {
    /// Give the command a network namespace of its own, with a loopback interface only
    #[arg(long)]
    offline: bool,

    /// Keep processes that the command leaves
    #[arg(long)]
    keep_processes: bool,

    /// Terminate the command after this time, for example 90m; the exit status is 124
    #[arg(long, value_name = "TIME", value_parser = crate::config::build::duration)]
    timeout: Option<Duration>,

    /// The exit status for failures of Coracle itself, instead of 125
    #[arg(long, value_name = "STATUS")]
    failure_status: Option<u8>,

    /// The largest exit status of the command: larger ones are replaced by it
    #[arg(long, value_name = "STATUS")]
    max_status: Option<u8>,
}

impl CommandLimits {
    /// Returns the options for `control`.
    pub(super) fn options(&self) -> RunOptions {
        RunOptions { is_offline: self.offline, keeps_processes: self.keep_processes, timeout: self.timeout }
    }

    /// Returns the exit status of a command or of its failure, as the caller wants it. An error is printed.
    pub(super) fn status(&self, result: Result<u8>) -> VerbResult {
        match (result, self.failure_status) {
            (Ok(status), _) => Ok(self.max_status.map_or(status, |largest| status.min(largest))),
            (Err(error), Some(status)) if error.is_launch() => {
                log::error!("{error}");
                error.hint().into_iter().for_each(|hint| log::error!("hint: {hint}"));
                Ok(status)
            }
            (Err(error), _) => Err(error.into()),
        }
    }
}

impl BuildRunArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let request = self.entry.request(&self.session, &self.command)?;
        self.limits.status(run::run(paths, &request, self.limits.options()))
    }
}
