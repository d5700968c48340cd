//! `coracle copy-from`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::{CopyOptions, word};
use crate::cli::output::with_progress;
use crate::control::copy::archive::OwnDestination;
use crate::control::copy::{self, LinkMode};
use crate::control::delegate::{self, Passwords};
use crate::control::progress::Progress;
use crate::error::{Error, Result};
use crate::paths::Paths;
use clap::Args;
use std::io::Read;
use std::path::Path;

/// Copy files from a running machine to the host
///
/// With DST '-' a tar archive is written to standard output. Owners keep their ids as seen in the machine;
/// set-user-ID bits and file capabilities are removed. For a user without the rights of root the copies belong to
/// that user.
#[derive(Debug, Args)]
pub struct CopyFromArgs {
    #[command(flatten)]
    copy: CopyOptions,
}

impl CopyFromArgs {
    /// Runs the verb as a user: the job of the service reads the files, and this process writes them.
    ///
    /// # Errors
    /// Those of the files, of the service, and of its job.
    pub(in crate::cli) fn run_as_user(&self, passwords: Passwords) -> VerbResult {
        self.check()?;
        let request = self.copy.request();
        let words = vec![word(request.source)?, "-".to_owned()];
        let options = Options::default().with_flag("no-dereference", request.links == LinkMode::Keep);
        let ask = Ask::new(AskVerb::CopyFrom, vec![request.name.clone()], options, words)?;
        if request.destination == Path::new("-") {
            copy::refuse_terminal()?;
            delegate::run(&ask, passwords)?;
            return Ok(0);
        }
        let destination = OwnDestination::open(&request)?;
        let unpack = |from: &mut dyn Read| {
            let unpacked = with_progress(|progress| {
                destination.unpack(from, std::mem::replace(progress, Progress::silent()))
            });
            let unpacked = unpacked?;
            Ok(Box::new(|| unpacked.publish()) as Box<dyn FnOnce() -> Result<()>>)
        };
        delegate::receive(&ask, passwords, Box::new(unpack))?;
        Ok(0)
    }

    fn check(&self) -> Result<()> {
        if self.copy.destination.is_none() && self.copy.source == Path::new("-") {
            return Err(Error::usage("the source must be a path in the machine")
                .with_hint("usage: coracle copy-from NAME SRC -"));
        }
        Ok(())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        self.check()?;
        with_progress(|progress| {
            let progress = std::mem::replace(progress, Progress::silent());
            copy::copy_from(paths, &self.copy.request(), progress)
        })?;
        Ok(0)
    }
}
