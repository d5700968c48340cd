//! `coracle build once`.

use super::begin::begin;
use super::commit::commit;
use super::end::end_own_session;
use super::run::CommandLimits;
use super::session_options::SessionOptions;
use crate::cli::arguments::EntryOptions;
use crate::cli::output;
use crate::cli::verb::VerbResult;
use crate::control::build::commit::refuse;
use crate::control::build::run;
use crate::error::{Error, Kind, Result};
use crate::paths::Paths;
use crate::run::session::SessionRequest;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Begin a session, run a command in it, and end it
///
/// Without --bind=, --workdir= and --commit, the working directory of the caller is bound to /build, where the
/// command starts.
#[derive(Debug, Args)]
pub(super) struct OnceArgs {
    #[command(flatten)]
    options: SessionOptions,

    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<OsString>,

    /// The user of the command, by name or number; the build user by default
    #[arg(short = 'u', value_name = "USER[:GROUP]")]
    command_user: Option<String>,

    /// The working directory inside
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,

    /// Set an environment variable; without VALUE, pass on the caller's
    #[arg(short = 'E', long, value_name = "NAME[=VALUE]")]
    setenv: Vec<String>,

    #[command(flatten)]
    limits: CommandLimits,

    /// When to keep the session
    #[arg(long, value_name = "WHEN", value_enum, default_value = "never")]
    keep: Keep,

    /// Keep the changes in the base, which must be a stack, if the command succeeds
    #[arg(long)]
    commit: bool,
}

/// When a session is kept after its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Keep {
    /// Never.
    Never,
    /// After a failed command.
    Failed,
    /// Always.
    Always,
}

/// The directory of the caller in a session.
const DIRECTORY: &str = "/build";

impl OnceArgs {
    pub(super) fn run(mut self, paths: &Paths) -> VerbResult {
        if !self.options.has_binds() && self.workdir.is_none() && !self.commit {
            self.options.bind_working_directory(DIRECTORY)?;
            self.workdir = Some(DIRECTORY.into());
        }
        let limits = self.limits.check()?;
        let entry = EntryOptions::of(self.command_user, self.workdir, self.setenv);
        let session = self
            .options
            .request(paths)
            .and_then(|mut request| {
                if self.commit {
                    refuse_commit(paths, &request)?;
                }
                if self.keep == Keep::Never {
                    // A killed client leaves no session.
                    request.with_processes.push(std::process::id());
                }
                begin(paths, request)
            })
            .map_err(|error: Error| error.with_kind_of_failure(Kind::Launch));
        let session = match session {
            Ok(session) => session,
            failed => return limits.status(failed.map(|_| 0)),
        };
        let ran = entry
            .request(&session, &self.command)
            .and_then(|request| run::run(paths, &request, limits.options));
        let ran = match ran {
            Ok(0) if self.commit => match commit(paths, &session, None) {
                Ok(text) => {
                    log::info!("{text}");
                    return limits.status(Ok(0));
                }
                Err(error) => Err(error.with_kind_of_failure(Kind::Launch)),
            },
            ran => ran,
        };
        let is_kept = match self.keep {
            Keep::Never => false,
            Keep::Failed => !matches!(ran, Ok(0)),
            Keep::Always => true,
        };
        if is_kept {
            output::line(session.as_str())?;
        } else {
            end_own_session(paths, &session)?;
        }
        limits.status(ran)
    }
}

/// Refuses a session whose changes cannot be committed.
fn refuse_commit(paths: &Paths, request: &SessionRequest) -> Result<()> {
    if request.options.in_memory {
        return Err(Error::usage("--commit excludes --memory").with_hint("drop one of both"));
    }
    refuse(paths, &request.options.base, None)
}
