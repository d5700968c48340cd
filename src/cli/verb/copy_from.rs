//! `coracle copy-from`.

use super::VerbResult;
use crate::cli::arguments::CopyOptions;
use crate::cli::output::with_progress;
use crate::control::copy;
use crate::control::progress::Progress;
use crate::error::Error;
use crate::paths::Paths;
use clap::Args;
use std::path::Path;

/// Copy files from a running machine to the host
///
/// With DST '-' a tar archive is written to standard output. Owners keep their ids as seen in the machine;
/// set-user-ID bits and file capabilities are removed.
#[derive(Debug, Args)]
pub struct CopyFromArgs {
    #[command(flatten)]
    copy: CopyOptions,
}

impl CopyFromArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        if self.copy.destination.is_none() && self.copy.source == Path::new("-") {
            return Err(Error::usage("the source must be a path in the machine")
                .with_hint("usage: coracle copy-from NAME SRC -")
                .into());
        }
        with_progress(|progress| {
            let progress = std::mem::replace(progress, Progress::silent());
            copy::copy_from(paths, &self.copy.request(), progress)
        })?;
        Ok(0)
    }
}
