//! `coracle rename`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output;
use crate::control::rename;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Rename a stopped machine: its image, settings, definition and records
///
/// The rename is done completely or not at all. The host name in the guest's own files is not changed.
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// The new name
    #[arg(value_name = "NEW", value_parser = Name::new)]
    new: Name,
}

impl RenameArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// Too long a word.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let words = vec![self.name.to_string(), self.new.to_string()];
        Ask::new(AskVerb::Rename, vec![self.name.clone()], Options::default(), words)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let (image, files) = rename::rename(paths, &self.name, &self.new)?;
        let image = image.map_or_else(String::new, |image| format!(", image '{}'", image.display()));
        let files = match files {
            0 => String::new(),
            1 => ", one other file".to_owned(),
            count => format!(", {count} other files"),
        };
        output::line(&format!("{}: renamed to '{}'{image}{files}", self.name, self.new))?;
        Ok(0)
    }
}
