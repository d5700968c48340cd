//! `coracle copy-to`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::{CopyOptions, word};
use crate::cli::output::with_progress;
use crate::control::copy::archive::OwnSource;
use crate::control::copy::{self, Replace};
use crate::control::delegate::{self, Passwords};
use crate::control::progress::Progress;
use crate::error::{Context, Error, Result};
use crate::paths::Paths;
use clap::Args;
use std::io::Write;
use std::path::Path;

/// Copy files from the host to a running machine
///
/// With SRC '-' the tar archive on standard input, also a compressed one, is extracted to the directory DST. Owners
/// keep their ids as seen in the machine. DST appears only when the copy is complete.
#[derive(Debug, Args)]
pub struct CopyToArgs {
    #[command(flatten)]
    copy: CopyOptions,
}

impl CopyToArgs {
    /// Runs the verb as a user: this process reads the files, and the job of the service writes them.
    ///
    /// # Errors
    /// Those of the files, of the service, and of its job.
    pub(in crate::cli) fn run_as_user(&self, passwords: Passwords) -> VerbResult {
        self.check()?;
        let request = self.copy.request();
        let words = vec!["-".to_owned(), word(request.destination)?];
        let options = Options::default().with_flag("force", request.replace == Replace::Yes);
        let ask = |options| Ask::new(AskVerb::CopyTo, vec![request.name.clone()], options, words);
        if request.source == Path::new("-") {
            let input = |to: &mut dyn Write| {
                let copied = std::io::copy(&mut std::io::stdin().lock(), to);
                copied.map(drop).context(|| "cannot copy standard input")
            };
            delegate::send(&ask(options)?, passwords, Box::new(input))?;
            return Ok(0);
        }
        let source = OwnSource::open(request.source, request.links)?;
        let ask = ask(options.with_text("source", Some(&word(&source.path)?)))?;
        let pack = |to: &mut dyn Write| {
            with_progress(|progress| source.pack(to, std::mem::replace(progress, Progress::silent())))
        };
        delegate::send(&ask, passwords, Box::new(pack))?;
        Ok(0)
    }

    fn check(&self) -> Result<()> {
        if self.copy.destination.is_none() && self.copy.source == Path::new("-") {
            return Err(Error::usage("a tar archive requires a destination directory")
                .with_hint("usage: coracle copy-to NAME - DST"));
        }
        Ok(())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        self.check()?;
        with_progress(|progress| {
            let progress = std::mem::replace(progress, Progress::silent());
            copy::copy_to(paths, &self.copy.request(), progress)
        })?;
        Ok(0)
    }
}
