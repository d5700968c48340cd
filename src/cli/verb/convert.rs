//! `coracle convert`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output::{self, with_progress};
use crate::control::convert;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::{Args, ValueEnum};

/// Convert an image to a stack, or to a directory
///
/// A directory becomes the only layer of a stack, at once: clones and snapshots of stacks share their files.
/// A stack is copied into a directory.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The image
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// The kind
    #[arg(value_name = "stack|directory", value_enum)]
    kind: Kind,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Stack,
    Directory,
}

impl ConvertArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// Too long a word.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let kind = if self.kind == Kind::Stack { "stack" } else { "directory" };
        let words = vec![self.name.to_string(), kind.to_owned()];
        let options = Options::default().with_flag("json", self.json);
        Ask::new(AskVerb::Convert, vec![self.name.clone()], options, words)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let is_stack = self.kind == Kind::Stack;
        let report = with_progress(|progress| convert::convert(paths, &self.name, is_stack, progress))?;
        output::report(&report, self.json, &report.text())?;
        Ok(0)
    }
}
