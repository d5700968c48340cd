//! `coracle build end`.

use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output;
use crate::cli::verb::{Failures, VerbResult};
use crate::control::build;
use crate::control::build::end::{self, Ended, Summary};
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// End sessions: kill their commands and discard their changes
#[derive(Debug, Args)]
pub(super) struct EndArgs {
    /// The sessions
    #[arg(value_name = "SESSION", required = true, value_parser = Name::new)]
    sessions: Vec<Name>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl EndArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// An option that only root has, or too long a word.
    pub(super) fn ask(&self) -> Result<Ask> {
        let options = Options::default().with_flag("json", self.json);
        let words = self.sessions.iter().map(ToString::to_string).collect();
        Ask::new(AskVerb::SessionEnd, self.sessions.clone(), options, words)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let (mut summaries, mut failures) = (Vec::new(), Vec::new());
        for session in &self.sessions {
            match end_one(paths, session) {
                Ok(summary) if self.json => summaries.push(summary),
                Ok(summary) => output::line(&summary.text())?,
                Err(error) => failures.push(error),
            }
        }
        if self.json {
            output::json(&summaries)?;
        }
        done(failures)
    }
}

/// Returns the result of a verb on several sessions.
pub(super) fn done(failures: Vec<Error>) -> VerbResult {
    if failures.is_empty() { Ok(0) } else { Err(Failures(failures)) }
}

/// Ends a session, also a dead one, and prints nothing.
///
/// # Errors
/// Those of [`end_one`].
pub(crate) fn end_session(paths: &Paths, session: &Name) -> Result<()> {
    end_one(paths, session).map(|_| ())
}

/// Ends the session of this process, unless it has ended by itself, and prints nothing.
///
/// # Errors
/// A supervisor that does not end.
pub(crate) fn end_own_session(paths: &Paths, session: &Name) -> Result<()> {
    match end_one(paths, session) {
        Ok(summary) => log::debug!("{}", summary.text()),
        Err(error) if build::session(paths, session).is_ok() => return Err(error),
        Err(error) => log::debug!("{error}, ignoring"),
    }
    Ok(())
}

/// Ends a session, also a dead one.
///
/// # Errors
/// A name without a session, or a supervisor that does not end.
pub(super) fn end_one(paths: &Paths, session: &Name) -> Result<Summary> {
    match end::end(paths, session)? {
        Ended::Stopped(summary) => Ok(summary),
        Ended::Dead(summary) => {
            crate::run::clean_up(paths, session)?;
            Ok(summary)
        }
    }
}
