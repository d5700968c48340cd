//! `coracle unbind`.

use super::{Failures, VerbResult};
use crate::control::bind;
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
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let unbind = |target: &PathBuf| bind::unbind(paths, &self.name, target).err();
        let failures: Vec<_> = self.targets.iter().filter_map(unbind).collect();
        if failures.is_empty() { Ok(0) } else { Err(Failures(failures)) }
    }
}
