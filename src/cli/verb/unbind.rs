//! `coracle unbind`.

use super::{Failures, VerbResult};
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::word;
use crate::control::bind;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use std::path::PathBuf;

/// Remove bind mounts
#[derive(Debug, Args)]
pub struct UnbindArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// The paths inside
    #[arg(value_name = "DST", required = true)]
    targets: Vec<PathBuf>,
}

impl UnbindArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// A path that is not UTF-8, or too many.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let targets = self.targets.iter().map(|target| word(target)).collect::<Result<_>>()?;
        Ask::new(AskVerb::Unbind, vec![self.name.clone()], Options::default(), targets)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let unbind = |target: &PathBuf| bind::unbind(paths, &self.name, target).err();
        let failures: Vec<_> = self.targets.iter().filter_map(unbind).collect();
        if failures.is_empty() { Ok(0) } else { Err(Failures(failures)) }
    }
}
