//! `coracle build commit`.

use super::end::end_one;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output;
use crate::cli::verb::VerbResult;
use crate::control::build::commit;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// End a session and keep its changes, as a layer of its base or of a new image
///
/// The base must be a stack (coracle convert).
#[derive(Debug, Args)]
pub(super) struct CommitArgs {
    /// The session
    #[arg(value_name = "SESSION", value_parser = Name::new)]
    session: Name,

    /// The name of a new image; the base by default
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Option<Name>,
}

impl CommitArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// An option that only root has, or too long a word.
    pub(super) fn ask(&self) -> Result<Ask> {
        let words = [&self.session].into_iter().chain(&self.name).map(ToString::to_string).collect();
        Ask::new(AskVerb::SessionCommit, vec![self.session.clone()], Options::default(), words)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        output::line(&commit(paths, &self.session, self.name.as_ref())?)?;
        Ok(0)
    }
}

/// Commits a session and removes the rest of it. Returns the line for a person.
///
/// # Errors
/// Those of [`commit::commit`], or of [`end_one`].
pub(super) fn commit(paths: &Paths, session: &Name, name: Option<&Name>) -> Result<String> {
    commit::commit(paths, session, name)?;
    end_one(paths, session)?;
    let target = name.map_or_else(|| "its base".to_owned(), |name| format!("image '{name}'"));
    Ok(format!("{session}: committed to {target}"))
}
