//! Verbs on machines that run, or are to run: each reads the state record or asks systemd, does one
//! thing, and returns data or writes to what it is given. Called by `cli`. Must not print, and must
//! not know how definitions are found: what it needs of them is passed in.

pub mod attach;
pub mod bind;
pub mod copy;
pub mod demand;
pub mod doctor;
pub mod exec;
pub mod freezer;
mod inside;
pub mod inspect;
pub mod limits;
pub mod list;
pub mod login;
pub mod logs;
pub mod network;
pub mod progress;
mod relay;
pub mod resolver;
pub mod rewire;
pub mod show;
pub mod signal;
pub mod start;
pub mod stats;
pub mod status;
mod streams;
mod traffic;
pub mod waiting;

use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;

/// What a verb on several machines leads to: the failures, each on its own.
pub type Outcome = std::result::Result<(), Vec<Error>>;

/// The unit of a machine.
pub fn unit_of(name: &Name) -> String {
    format!("coracle@{name}.service")
}

/// The record of a machine that runs.
///
/// # Errors
/// It does not run, or the record cannot be read.
pub fn running(paths: &Paths, name: &Name) -> Result<Record> {
    match Record::read(paths, name)? {
        Some(record) if record.is_alive() => Ok(record),
        _ => Err(Error::new(format!("machine '{name}' is not running"))
            .with_hint(format!("start it with 'coracle start {name}', or see 'coracle status {name}'"))),
    }
}

/// Does something to each machine and collects what failed.
fn each(names: &[Name], mut action: impl FnMut(&Name) -> Result<()>) -> Outcome {
    let failures: Vec<Error> = names.iter().filter_map(|name| action(name).err()).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// Runs what waits for the bus, on a runtime that is gone afterwards.
fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    Ok(runtime.context(|| "cannot make an event loop".to_owned())?.block_on(future))
}

/// Text for a terminal: names that a guest has given its files do nothing to it.
pub fn printable(text: &str) -> String {
    crate::host::systemd::journal::printable(text.as_bytes())
}

/// The time now, microseconds since the epoch.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// A point in time as people read it, in the zone of this host: `2026-11-23T19:07:15+00:00`.
fn when(micros: u64) -> String {
    let timestamp =
        i64::try_from(micros).ok().and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    timestamp.map_or_else(
        || format!("{micros} us"),
        |timestamp| {
            timestamp
                .to_zoned_datetime(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%dT%H:%M:%S%:z")
                .to_string()
        },
    )
}
