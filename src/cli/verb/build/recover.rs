//! `coracle build recover`.

use crate::cli::verb::VerbResult;
use crate::control::build;
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
}

impl RecoverArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let (record, _) = build::session(paths, &self.session)?;
        session::recover(paths, &record)?;
        Ok(0)
    }
}
