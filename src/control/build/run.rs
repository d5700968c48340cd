//! `coracle build run` and `shell`: runs a command in a session, in a cgroup of its own. What the command leaves
//! is killed at its end, unless the caller wants to keep it.

use super::history::{self, Entry};
use super::{environment, running};
use crate::control::exec::{self, Apart, ExecRequest, TIMEOUT_STATUS};
use crate::control::now;
use crate::error::{Error, Kind, Result};
use crate::host::cgroup_leaf::{Cleared, Leaf, Rest};
use crate::machine::init::PayloadKind;
use crate::paths::Paths;
use crate::state::build as state;
use std::time::{Duration, Instant};

/// The options of a command that only sessions have.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RunOptions {
    /// Whether the command has no network.
    pub(crate) is_offline: bool,
    /// Whether processes that it leaves are kept.
    pub(crate) keeps_processes: bool,
    /// The time after which it is terminated.
    pub(crate) timeout: Option<Duration>,
}

/// Runs a command in a session and waits until it exits. Returns its exit status.
///
/// # Errors
/// The reason why the command was not executed, of the kinds of [`exec::exec`].
pub(crate) fn run(paths: &Paths, request: &ExecRequest<'_>, options: RunOptions) -> Result<u8> {
    let of_launch = |error: Error| error.with_kind_of_failure(Kind::Launch);
    crate::control::require_root().map_err(of_launch)?;
    let (record, build) = running(paths, request.name).map_err(of_launch)?;
    // An init has cgroups of its own: commands are in that of the machine.
    let payload = record.payload_cgroup().filter(|_| record.init == Some(PayloadKind::Command));
    let rest = if options.keeps_processes { Rest::Kept } else { Rest::Killed };
    let mut leaf = payload.map(|payload| Leaf::take(&payload, rest)).transpose().map_err(of_launch)?;
    let (start, begun) = (now(), Instant::now());
    let user = request.user.unwrap_or(&build.user);
    let apart = Apart {
        cgroup: leaf.as_ref().map(Leaf::directory),
        is_offline: options.is_offline,
        relays_streams: options.keeps_processes,
        signals_group: true,
        time_limit: options.timeout,
    };
    // Those of the definition and of the caller replace them.
    let mut environment = environment::variables(paths, &record);
    let defined = if record.has_environment { state::environment(paths, request.name) } else { Vec::new() };
    let is_replaced =
        |name: &String| defined.iter().chain(&request.environment).any(|(given, _)| given == name);
    environment.retain(|(name, _)| !is_replaced(name));
    environment.extend_from_slice(&request.environment);
    let entering = ExecRequest { user: Some(user), apart, environment, ..request.clone() };
    let status = exec::exec(paths, &entering)?;
    let seconds = begun.elapsed().as_secs_f64();
    let usage = leaf.as_mut().map(Leaf::usage).unwrap_or_default();
    // After the time limit, also those that the command was to leave.
    let is_late = options.timeout.is_some_and(|limit| begun.elapsed() >= limit) && status == TIMEOUT_STATUS;
    let killed = leaf.as_ref().filter(|_| rest == Rest::Killed || is_late).map_or(0, kill_rest);
    let entry = Entry {
        argv: request.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        user: user.to_owned(),
        start,
        seconds,
        status,
        cpu_usec: usage.cpu_usec,
        memory_peak: usage.memory_peak,
        oom_kills: usage.oom_kills,
        killed,
    };
    // The session may have ended meanwhile.
    history::append(paths, request.name, &entry).unwrap_or_else(|error| log::debug!("{error}, ignoring"));
    Ok(status)
}

/// Kills the processes that a command has left. Returns their number.
fn kill_rest(leaf: &Leaf) -> usize {
    let processes = leaf.processes();
    if processes.is_empty() {
        return 0;
    }
    for pid in &processes {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        log::debug!("killing process {pid} ({}), which the command has left", name.trim());
    }
    match leaf.clear_rest() {
        Ok(Cleared::Stuck) => log::warn!("a killed process that the command has left does not end, ignoring"),
        Ok(Cleared::Empty | Cleared::Removed) => {}
        Err(error) => log::warn!("{error}, ignoring"),
    }
    processes.len()
}
