//! `coracle read-only`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output;
use crate::control::images;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::{Args, ValueEnum};

/// Make an image read-only, or writable again
///
/// Machines started from a read-only image cannot change it: their root is read-only, or their changes are
/// discarded. An image stays read-only while stacks stand on it.
#[derive(Debug, Args)]
pub struct ReadOnlyArgs {
    /// The image
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// Whether it is read-only
    #[arg(value_name = "yes|no", value_enum, default_value = "yes", hide_default_value = true)]
    value: ReadOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReadOnly {
    #[value(aliases = ["true", "on", "1"])]
    Yes,
    #[value(aliases = ["false", "off", "0"])]
    No,
}

impl ReadOnlyArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// Too long a word.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let value = if self.value == ReadOnly::Yes { "yes" } else { "no" };
        let words = vec![self.name.to_string(), value.to_owned()];
        Ask::new(AskVerb::ReadOnly, vec![self.name.clone()], Options::default(), words)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let message = images::set_read_only(paths, &self.name, self.value == ReadOnly::Yes)?;
        output::line(&message)?;
        Ok(0)
    }
}
