//! `coracle build recover`.

use crate::ask::{Ask, AskVerb, Options};
use crate::cli::verb::VerbResult;
use crate::control::build;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::run::session;
use clap::Args;

/// Continue a dead session, whose supervisor was killed, with its changes
#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    /// The session
    #[arg(value_name = "SESSION", value_parser = Name::new)]
    session: Name,

    /// Refuse what users without the rights of root may not have: a job of the service
    #[arg(long, hide = true)]
    for_user: bool,
}

impl RecoverArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// An option that only root has, or too long a word.
    pub(super) fn ask(&self) -> Result<Ask> {
        let words = vec![self.session.to_string()];
        Ask::new(AskVerb::SessionRecover, vec![self.session.clone()], Options::default(), words)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let (record, _) = build::session(paths, &self.session)?;
        session::recover(paths, &record, self.for_user)?;
        Ok(0)
    }
}
