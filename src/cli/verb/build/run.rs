//! `coracle build run`.

use crate::ask::{Ask, AskVerb, Options};
use crate::cli::argument_table::{ArgumentRow, Slot, TableParser, long, positional};
use crate::cli::arguments::EntryOptions;
use crate::cli::verb::{Failures, VerbResult};
use crate::config::build::duration;
use crate::control::build::run::{self, RunOptions};
use crate::error::{Error, Kind, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use std::ffi::OsString;

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
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,

    /// The exit status for failures of Coracle itself, instead of 125
    #[arg(long, value_name = "STATUS")]
    failure_status: Option<String>,

    /// The largest exit status of the command: larger ones are replaced by it
    #[arg(long, value_name = "STATUS")]
    max_status: Option<String>,
}

impl CommandLimits {
    /// Returns the options as rows of a table, for parsing without clap.
    fn table(&mut self) -> [ArgumentRow<'_>; 5] {
        [
            long("offline", Slot::Flag(&mut self.offline)),
            long("keep-processes", Slot::Flag(&mut self.keep_processes)),
            long("timeout", Slot::Text(&mut self.timeout)),
            long("failure-status", Slot::Text(&mut self.failure_status)),
            long("max-status", Slot::Text(&mut self.max_status)),
        ]
    }

    /// Adds the options of a request for the service.
    fn ask_options(&self, options: Options) -> Options {
        options
            .with_flag("offline", self.offline)
            .with_flag("keep-processes", self.keep_processes)
            .with_text("timeout", self.timeout.as_deref())
            .with_text("failure-status", self.failure_status.as_deref())
            .with_text("max-status", self.max_status.as_deref())
    }

    /// Returns the checked options.
    ///
    /// # Errors
    /// A value that is not a time or an exit status.
    pub(super) fn check(&self) -> Result<CheckedLimits> {
        let timeout = self.timeout.as_deref().map(duration).transpose();
        Ok(CheckedLimits {
            options: RunOptions {
                is_offline: self.offline,
                keeps_processes: self.keep_processes,
                timeout: timeout.map_err(|error| Error::usage(error.context("'--timeout='").to_string()))?,
            },
            failure_status: status("--failure-status=", self.failure_status.as_deref())?,
            max_status: status("--max-status=", self.max_status.as_deref())?,
        })
    }
}

fn status(flag: &str, text: Option<&str>) -> Result<Option<u8>> {
    let Some(text) = text else { return Ok(None) };
    let status = text.parse();
    status.map(Some).map_err(|_| {
        Error::usage(format!("'{flag}{text}' is not an exit status"))
            .with_hint("write a number from 0 to 255")
    })
}

/// The checked options of a command that only sessions have.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckedLimits {
    /// The options for `control`.
    pub(super) options: RunOptions,
    failure_status: Option<u8>,
    max_status: Option<u8>,
}

impl CheckedLimits {
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
    /// Reads the arguments without clap. `None` if clap must parse them.
    pub(super) fn read(parse: TableParser<'_>) -> Option<Self> {
        let (mut session, mut command) = (None, Vec::new());
        let (mut entry, mut limits) = (EntryOptions::default(), CommandLimits::default());
        let mut table = vec![positional(Slot::Name(&mut session)), positional(Slot::Command(&mut command))];
        table.extend(entry.table());
        table.extend(limits.table());
        parse(table)?;
        (!command.is_empty()).then_some(Self { session: session?, command, entry, limits })
    }

    /// Returns the request for the service.
    ///
    /// # Errors
    /// An option that only root has, or too long a word.
    pub(super) fn ask(&self) -> Result<Ask> {
        let request = self.entry.request(&self.session, &self.command)?;
        self.limits.check()?;
        let options = self.limits.ask_options(self.entry.options(&request));
        let command = request.argv.iter().map(|word| word.to_string_lossy().into_owned());
        let words = [self.session.to_string()].into_iter().chain(command).collect();
        Ask::new(AskVerb::SessionRun, vec![self.session.clone()], options, words)
    }

    /// Returns the exit status of a command that another process has run, or of its failure.
    ///
    /// # Errors
    /// The failure.
    pub(super) fn status(&self, failures: Failures) -> VerbResult {
        let limits = self.limits.check()?;
        let mut errors = failures.0;
        match errors.len() {
            1 => limits.status(Err(errors.swap_remove(0).with_kind_of_failure(Kind::Launch))),
            _ => Err(Failures(errors)),
        }
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let limits = self.limits.check()?;
        let request = self.entry.request(&self.session, &self.command)?;
        limits.status(run::run(paths, &request, limits.options))
    }
}
