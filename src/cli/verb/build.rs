//! `coracle build`: sessions for builds. Each action is one file below.

mod begin;
mod clean;
mod commit;
mod end;
mod list;
mod once;
mod recover;
mod run;
mod session_mounts;
mod session_options;
mod shell;
mod show;

pub(in crate::cli) use begin::begin as begin_session;
pub(crate) use end::{end_own_session, end_session};
pub(in crate::cli) use session_options::SessionOptions;

use super::{Failures, VerbResult};
use crate::ask::Ask;
use crate::cli::argument_table::TableParser;
use crate::control;
use crate::error::Result;
use crate::paths::Paths;
use clap::{Args, Subcommand};

/// Begin, enter and end disposable build sessions
///
/// A session is a machine on a shared base. It discards its changes, and runs any number of commands. See
/// coracle-build(1).
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
#[command(subcommand_value_name = "ACTION", subcommand_help_heading = "Actions")]
pub struct BuildArgs {
    #[command(subcommand)]
    action: BuildAction,
}

/// An action on sessions.
#[derive(Debug, Subcommand)]
enum BuildAction {
    Begin(Box<begin::BeginArgs>),
    Run(run::BuildRunArgs),
    Shell(shell::BuildShellArgs),
    Once(Box<once::OnceArgs>),
    End(end::EndArgs),
    Commit(commit::CommitArgs),
    Recover(recover::RecoverArgs),
    List(list::BuildListArgs),
    Show(show::BuildShowArgs),
    Clean(clean::CleanArgs),
}

impl BuildArgs {
    /// Reads the arguments of `run` without clap. `None` if clap must parse them.
    pub(in crate::cli) fn read_run(parse: TableParser<'_>) -> Option<Self> {
        run::BuildRunArgs::read(parse).map(|run| Self { action: BuildAction::Run(run) })
    }

    /// Returns the request for the service. `None` for an action that reads what all may read, or that needs root.
    ///
    /// # Errors
    /// An option that only root has, or too long a word.
    pub(in crate::cli) fn ask(&self) -> Result<Option<Ask>> {
        match &self.action {
            BuildAction::Begin(begin) => begin.ask().map(Some),
            BuildAction::Run(run) => run.ask().map(Some),
            BuildAction::Shell(shell) => shell.ask().map(Some),
            BuildAction::End(end) => end.ask().map(Some),
            BuildAction::Commit(commit) => commit.ask().map(Some),
            BuildAction::Recover(recover) => recover.ask().map(Some),
            BuildAction::Clean(clean) => clean.ask().map(Some),
            BuildAction::Once(_) | BuildAction::List(_) | BuildAction::Show(_) => Ok(None),
        }
    }

    /// Returns the result of a request that has failed, as the caller wants it.
    ///
    /// # Errors
    /// The failure.
    pub(in crate::cli) fn failed(&self, failures: Failures) -> VerbResult {
        match &self.action {
            BuildAction::Run(run) => run.status(failures),
            _ => Err(failures),
        }
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        if !matches!(self.action, BuildAction::Run(_)) {
            control::build::restore(paths);
        }
        match self.action {
            BuildAction::Begin(begin) => begin.run(paths),
            BuildAction::Run(run) => run.run(paths),
            BuildAction::Shell(shell) => shell.run(paths),
            BuildAction::Once(once) => once.run(paths),
            BuildAction::End(end) => end.run(paths),
            BuildAction::Commit(commit) => commit.run(paths),
            BuildAction::Recover(recover) => recover.run(paths),
            BuildAction::List(list) => list.run(paths),
            BuildAction::Show(show) => show.run(paths),
            BuildAction::Clean(clean) => clean.run(paths),
        }
    }

    /// Returns whether the action changes sessions by itself. Commands in sessions have an exit status of
    /// their own for a caller without rights.
    pub(super) fn is_request(&self) -> bool {
        matches!(
            self.action,
            BuildAction::Begin(_)
                | BuildAction::End(_)
                | BuildAction::Commit(_)
                | BuildAction::Recover(_)
                | BuildAction::Clean(_)
        )
    }
}
