//! `coracle copy-to`.

use super::VerbResult;
use crate::cli::arguments::CopyOptions;
use crate::cli::output::with_progress;
use crate::control::copy;
use crate::control::progress::Progress;
use crate::error::Error;
use crate::paths::Paths;
use clap::Args;
use std::path::Path;

/// Copy files from the host to a running machine
///
/// With SRC '-' the tar archive on standard input is extracted to the directory DST. Owners keep their ids as
/// seen in the machine. DST appears only when the copy is complete.
#[derive(Debug, Args)]
pub struct CopyToArgs {
    #[command(flatten)]
    copy: CopyOptions,
}

impl CopyToArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        if self.copy.destination.is_none() && self.copy.source == Path::new("-") {
            return Err(Error::usage("a tar archive requires a destination directory")
                .with_hint("usage: coracle copy-to NAME - DST")
                .into());
        }
        with_progress(|progress| {
            let progress = std::mem::replace(progress, Progress::silent());
            copy::copy_to(paths, &self.copy.request(), progress)
        })?;
        Ok(0)
    }
}
