//! `coracle verify`.

use super::{Failures, VerbResult};
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output;
use crate::control::prune;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Check images: their entries, the layers that they lead to, and interrupted commands
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The images
    #[arg(value_name = "NAME", required = true, value_parser = Name::new)]
    names: Vec<Name>,
}

impl VerifyArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// Too long a word.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let words = self.names.iter().map(ToString::to_string).collect();
        Ask::new(AskVerb::Verify, self.names.clone(), Options::default(), words)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let mut failures = Vec::new();
        for name in &self.names {
            match prune::verify(paths, name) {
                Ok(()) => output::line(&format!("{name}: no problems found"))?,
                Err(errors) => failures.extend(errors),
            }
        }
        if failures.is_empty() { Ok(0) } else { Err(Failures(failures)) }
    }
}
