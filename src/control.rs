//! The verbs on machines: one function each. A verb reads the state record, the definition or systemd, does
//! one thing, and returns data or writes to the stream it is given. Called by `cli`. Must not print.

pub(crate) mod activation;
mod agent;
pub(crate) mod apply;
pub(crate) mod attach;
pub(crate) mod bind;
pub(crate) mod build;
pub(crate) mod candidates;
pub(crate) mod clone;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod create;
mod defined_stacks;
pub(crate) mod delegate;
pub(crate) mod device;
mod disconnect;
pub(crate) mod doctor;
pub(crate) mod edit;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod freezer;
pub(crate) mod graph;
mod guest_addresses;
mod guest_child;
mod guest_states;
pub(crate) mod health;
pub(crate) mod hotplug;
pub(crate) mod idle;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod inspect;
mod interruptible;
mod interrupts;
pub(crate) mod list;
pub(crate) mod login;
pub(crate) mod logs;
mod loopback_ports;
mod machine_ids;
pub(crate) mod metrics;
pub(crate) mod migrate;
pub(crate) mod network;
pub(crate) mod network_update;
mod on_demand;
pub(crate) mod preflight;
pub(crate) mod progress;
pub(crate) mod provision;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod remove;
pub(crate) mod rename;
pub(crate) mod resolv_conf;
pub(crate) mod resources;
pub(crate) mod show;
pub(crate) mod signal;
pub(crate) mod snapshots;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod status;
pub mod testbed;
pub(crate) mod update;
pub(crate) mod watch;
pub(crate) mod zone_names;

use crate::config;
use crate::error::{Error, ErrorName, Result};
use crate::host::runtime::runtime;
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::machine::unit_name::ServiceTemplate;
use crate::paths::Paths;
use crate::state::record::Record;
use std::collections::BTreeSet;
use std::time::Duration;

/// The result of a verb on several machines: all failures.
pub(crate) type BatchResult = std::result::Result<(), Vec<Error>>;

/// Refuses a caller without the rights to change machines.
///
/// # Errors
/// A user other than root.
pub(crate) fn require_root() -> Result<()> {
    crate::host::require_root()
}

/// Returns the record of a running machine.
///
/// # Errors
/// A machine that does not exist or is not running, or a record that cannot be read.
pub(crate) fn running(paths: &Paths, name: &Name) -> Result<Record> {
    match Record::read(paths, name)? {
        Some(record) if record.is_alive() => Ok(record),
        None if !config::exists(paths, name) => Err(config::missing(paths, name)),
        _ => Err(Error::new(format!("machine '{name}' is not running"))
            .named(ErrorName::NotRunning)
            .with_hint(format!("start it with 'coracle start {name}', or see 'coracle status {name}'"))),
    }
}

/// Returns the records of the named machines, or of all running machines if `names` is empty.
///
/// # Errors
/// A named machine that is not running.
pub(crate) fn running_records(paths: &Paths, names: &[Name]) -> Result<Vec<Record>> {
    if names.is_empty() {
        return Ok(Record::all(paths).into_iter().filter(Record::is_alive).collect());
    }
    names.iter().map(|name| running(paths, name)).collect()
}

/// Returns `names`, or the names of all running machines if `names` is empty.
pub(crate) fn named_or_running(paths: &Paths, names: Vec<Name>) -> Vec<Name> {
    if !names.is_empty() {
        return names;
    }
    let running = Record::all(paths).into_iter().filter(Record::is_alive);
    running.map(|record| record.name).collect()
}

/// Returns the names of all machines with a definition, a tree or a record. Reads file names and records
/// only: a shell calls it at each press of the tab key.
///
/// # Errors
/// A directory of definitions that cannot be read.
pub(crate) fn names(paths: &Paths) -> Result<BTreeSet<String>> {
    let mut names: BTreeSet<String> = config::names(paths)?.iter().map(ToString::to_string).collect();
    names.extend(Record::all(paths).into_iter().map(|record| record.name.into()));
    Ok(names)
}

/// Returns the machine that the definition of `name` describes now.
///
/// # Errors
/// A missing or invalid definition.
fn defined(paths: &Paths, name: &Name) -> Result<Machine> {
    config::machine(paths, name).map(|resolved| *resolved.machine)
}

/// Returns the service of a machine: that in which it is running, else that of its definition.
fn service(paths: &Paths, name: &Name) -> String {
    let record = Record::read(paths, name).ok().flatten().filter(Record::is_alive);
    let running = record.and_then(|record| record.unit);
    let running = running.filter(|unit| ServiceTemplate::of_unit(unit).is_some());
    running.unwrap_or_else(|| config::service_template(paths, name).service(name))
}

/// Calls `action` for each machine and collects all failures.
fn each(names: &[Name], mut action: impl FnMut(&Name) -> Result<()>) -> BatchResult {
    let failures: Vec<Error> = names.iter().filter_map(|name| action(name).err()).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// Runs a future on an event loop that ends with the call.
fn block_on<F: Future>(future: F) -> Result<F::Output> {
    Ok(runtime()?.block_on(future))
}

/// Replaces control characters, so that file names of a guest do not control the terminal.
pub fn printable(text: &str) -> String {
    crate::host::systemd::journal::printable(text.as_bytes())
}

/// Returns the whole milliseconds of a time.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the current time in microseconds since the epoch.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Formats microseconds since the epoch in the time zone of the host, for example
/// `2026-11-23T19:07:15+00:00`.
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
