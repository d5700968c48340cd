//! Build sessions: runs commands in them, lists them and ends them. Called by `cli`; `run::session` begins them.

pub(crate) mod bases;
pub(crate) mod caller;
pub(crate) mod commit;
pub(crate) mod end;
mod environment;
pub(crate) mod history;
pub(crate) mod list;
pub(crate) mod run;

use crate::error::{Error, Result, nearest};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::build::BuildRecord;
use crate::state::kept_sessions;
use crate::state::record::{Phase, Record};
use std::time::{Duration, Instant};

/// Returns the record of a session, running or dead, and the part of it that only sessions have.
///
/// # Errors
/// A name without a session.
pub(crate) fn session(paths: &Paths, name: &Name) -> Result<(Record, BuildRecord)> {
    let record = Record::read(paths, name)?;
    if let Some((record, build)) = record.and_then(|record| Some((record.clone(), record.build?))) {
        return Ok((record, build));
    }
    let error = Error::new(format!("no session '{name}'"));
    let names: Vec<Name> = all(paths).into_iter().map(|(record, _)| record.name).collect();
    Err(match nearest(name.as_str(), names.iter().map(Name::as_str)) {
        Some(near) => error.with_hint(format!("did you mean '{near}'?")),
        None => error.with_hint(
            "list the sessions with 'coracle build list', or begin one with 'coracle build begin'",
        ),
    })
}

/// Returns the record of a running session.
///
/// # Errors
/// A name without a session, or a session whose supervisor was killed.
pub(crate) fn running(paths: &Paths, name: &Name) -> Result<(Record, BuildRecord)> {
    let (record, build) = session(paths, name)?;
    if record.is_alive() {
        return Ok((record, build));
    }
    Err(Error::new(format!("session '{name}' is dead: its supervisor was killed")).with_hint(
        match record.keeps_changes() {
            true => format!(
                "continue with 'coracle build recover {name}', or remove it with 'coracle build end {name}'"
            ),
            false => format!("remove it with 'coracle build end {name}'"),
        },
    ))
}

/// The delay between two looks at the phase of a session.
const PAUSE: Duration = Duration::from_millis(20);
/// The time for a session to become ready.
const BOOTING: Duration = Duration::from_secs(600);

/// Waits until the guest of a booted session reports that it is ready: that of another boot than the one with this
/// start, if there is one. Other sessions are ready at once.
///
/// # Errors
/// A session that ends meanwhile, or is not ready in time.
pub(crate) fn wait_until_ready(paths: &Paths, name: &Name, before: Option<u64>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let (record, _) = running(paths, name)?;
        if begun.elapsed() > BOOTING {
            return Err(Error::new(format!("session '{name}' is not ready after 10 minutes"))
                .with_hint(format!("see 'coracle logs {name}'")));
        }
        if record.phase == Phase::Running && before != Some(record.started) {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Finds the sessions that were interrupted by a reboot of the host.
pub(crate) fn restore(paths: &Paths) {
    kept_sessions::restore(paths);
}

/// Returns the records of all sessions, running or dead.
pub(crate) fn all(paths: &Paths) -> Vec<(Record, BuildRecord)> {
    let of = |record: Record| Some((record.clone(), record.build?));
    Record::all(paths).into_iter().filter_map(of).collect()
}
