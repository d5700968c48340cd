//! `coracle events`.

use super::VerbResult;
use crate::cli::output;
use crate::control::events::{self, Event, EventQuery};
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;

/// Show events of machines: starts, stops, failures, health and limits
///
/// The events are start, ready (the unit counts as started), stop, failure, restart (after a failure, by
/// systemd), out-of-memory, and with health checks healthy, unhealthy and limit (nearly reached). They come from
/// the journal of the host. To act on them, use OnSuccess= and OnFailure= in a drop-in of the unit, see
/// coracle@.service(8).
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// The machines; all machines by default
    #[arg(value_name = "NAME", value_parser = Name::new)]
    names: Vec<Name>,

    /// Show events since this time, in the format of systemd.time(7)
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,

    /// Wait for further events, and leave out those before unless --since is given
    #[arg(short, long)]
    follow: bool,

    /// Print one line of JSON for each event
    #[arg(long)]
    json: bool,
}

impl EventsArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let query = EventQuery { names: &self.names, since: self.since.as_deref(), follow: self.follow };
        events::read(paths, &query, &mut |event| print(event, self.json))?;
        Ok(0)
    }
}

/// Prints an event at once. Breaks if the reader is gone.
fn print(event: &Event, is_json: bool) -> Result<ControlFlow<()>> {
    let line = match is_json {
        true => serde_json::to_string(event).map_err(|error| Error::new(error.to_string()))?,
        false => event.line(),
    };
    let mut out = output::Stream;
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Error::from(error).context("cannot write to standard output")),
        Ok(()) => Ok(ControlFlow::Continue(())),
    }
}
