//! `coracle build begin`.

use super::end::end_own_session;
use super::session_options::SessionOptions;
use crate::ask::{Ask, AskVerb};
use crate::cli::output;
use crate::cli::verb::VerbResult;
use crate::control;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::run::session::{self, SessionRequest};
use clap::Args;

/// Begin a session and print its name
#[derive(Debug, Args)]
pub(super) struct BeginArgs {
    #[command(flatten)]
    options: SessionOptions,

    /// Refuse what users without the rights of root may not have: a job of the service
    #[arg(long, hide = true)]
    for_user: bool,
}

impl BeginArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// An option that only root has, or too long a word.
    pub(super) fn ask(&self) -> Result<Ask> {
        let (base, options) = self.options.ask_options()?;
        Ask::new(AskVerb::SessionBegin, vec![base.clone()], options, vec![base.to_string()])
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let request = SessionRequest { is_of_user: self.for_user, ..self.options.request(paths)? };
        let name = begin(paths, request)?;
        output::line(name.as_str())?;
        Ok(0)
    }
}

/// Begins a session and waits until it is ready. A session that does not become ready is ended.
///
/// # Errors
/// Those of [`session::begin`], or a guest that ends.
pub(crate) fn begin(paths: &Paths, request: SessionRequest) -> Result<Name> {
    let boots = request.options.boots;
    let name = session::begin(paths, request)?;
    if boots {
        let ready = control::build::wait_until_ready(paths, &name, None);
        ready.or_else(|error| end_own_session(paths, &name).and(Err(error)))?;
    }
    Ok(name)
}
