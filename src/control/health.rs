//! `coracle health`: one health check of a running machine (`[health]`). Run by the timer that the generator
//! creates. Changes are events in the journal of the host; `status` and `doctor` show the last result.

use super::exec::{self, Apart, ExecRequest, TIMEOUT_STATUS, TerminalMode};
use super::list::read_number;
use super::progress::Progress;
use super::start::{self, StartWait};
use super::{defined, signal};
use crate::error::Result;
use crate::host::cgroup;
use crate::host::procfs::start_time;
use crate::host::systemd::journal::printable_line;
use crate::host::systemd::journal::writer::JournalWriter;
use crate::machine::health::{Health, HealthAction};
use crate::machine::name::Name;
use crate::machine::size;
use crate::paths::Paths;
use crate::state::health::HealthState;
use crate::state::record::{Phase, Record};
use std::path::Path;
use std::time::Duration;

/// The field of an event in the journal with its kind.
pub(crate) const EVENT_FIELD: &str = "CORACLE_EVENT";
/// The events of health checks.
pub(crate) const HEALTHY: &str = "healthy";
/// The command has failed as often as the definition allows.
pub(crate) const UNHEALTHY: &str = "unhealthy";
/// A limit is nearly reached.
pub(crate) const LIMIT: &str = "limit";
/// The usage from which a limit counts as nearly reached, percent.
const NEAR: u64 = 90;

/// Checks a machine once. A machine without health checks, one that is not running or is frozen, and one that
/// has just started is left alone.
///
/// # Errors
/// An invalid definition, a result that cannot be written, or an action that failed.
pub(crate) fn check(paths: &Paths, name: &Name) -> Result<()> {
    let machine = defined(paths, name)?;
    let Some(health) = &machine.health else { return Ok(()) };
    let Some(record) = Record::read(paths, name)?.filter(|record| is_checked(record, health.interval)) else {
        return Ok(());
    };
    let before = HealthState::read(paths, name, record.leader.unwrap_or_default());
    let result = health.command.as_deref().map(|command| run(paths, name, command, health.interval));
    let is_same = |now: Record| now.is_alive() && now.leader == record.leader && now.phase == Phase::Running;
    if !Record::read(paths, name)?.is_some_and(is_same) {
        // It was stopped meanwhile: the command has failed for that reason.
        return Ok(());
    }
    let (after, events) = judge(&before, health, result, near_limits(&record));
    if after != before {
        after.write(paths, name)?;
    }
    events.iter().for_each(|event| event.send(name));
    if is_due(&before, &after, health, &events) {
        act(paths, &record, health.action)?;
    }
    Ok(())
}

/// Returns whether a machine is checked now: not while it starts.
fn is_checked(record: &Record, grace: Duration) -> bool {
    let since = record.leader.and_then(age).unwrap_or_default();
    let is_frozen = || record.payload_cgroup().is_some_and(|payload| cgroup::is_frozen(&payload));
    record.is_alive() && record.phase == Phase::Running && since >= grace && !is_frozen()
}

/// Returns the time since a process started, by the clock that is not set.
fn age(process: u32) -> Option<Duration> {
    let now = Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Boottime)).ok()?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let started = Duration::from_millis(start_time(process)?.saturating_mul(1000) / per_second);
    Some(now.saturating_sub(started))
}

/// Runs the command inside. `Err` is the reason why it failed.
fn run(paths: &Paths, name: &Name, command: &str, limit: Duration) -> std::result::Result<(), String> {
    let request = ExecRequest {
        name,
        argv: ["sh", "-c", command].map(Into::into).to_vec(),
        user: None,
        directory: None,
        environment: Vec::new(),
        terminal: TerminalMode::No,
        wait_ready: false,
        disconnects: false,
        announces: false,
        apart: Apart { time_limit: Some(limit), ..Apart::default() },
    };
    match exec::exec(paths, &request) {
        Ok(0) => Ok(()),
        Ok(TIMEOUT_STATUS) => Err(format!("the command did not end within {} s", limit.as_secs_f64())),
        Ok(status) => Err(format!("the command ended with status {status}")),
        Err(error) => Err(error.to_string()),
    }
}

/// A change that the journal reports.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    kind: &'static str,
    message: String,
}

impl Event {
    /// Writes the event to the journal of the host.
    fn send(&self, name: &Name) {
        let message = printable_line(self.message.as_bytes());
        // syslog(3): a warning, or a notice.
        let priority = if self.kind == HEALTHY { b"5" } else { b"4" };
        let Some(mut journal) = JournalWriter::open() else {
            log::warn!("machine '{name}': {}: {message}", self.kind);
            return;
        };
        journal.send(&[
            ("MESSAGE", format!("{}: {message}", self.kind).as_bytes()),
            ("PRIORITY", priority),
            ("SYSLOG_IDENTIFIER", b"coracle"),
            ("CORACLE_MACHINE", name.as_str().as_bytes()),
            (EVENT_FIELD, self.kind.as_bytes()),
        ]);
    }
}

/// Returns the state after a check, and the events of the change.
fn judge(
    before: &HealthState,
    health: &Health,
    result: Option<std::result::Result<(), String>>,
    near: Vec<(&'static str, String)>,
) -> (HealthState, Vec<Event>) {
    let mut after = before.clone();
    let mut events = Vec::new();
    match result {
        None => {}
        Some(Ok(())) => {
            if before.healthy != Some(true) {
                events.push(Event { kind: HEALTHY, message: "the health check succeeded".to_owned() });
            }
            (after.healthy, after.failures, after.message) = (Some(true), 0, None);
        }
        Some(Err(reason)) => {
            after.failures = before.failures.saturating_add(1);
            // The definition may allow fewer failures than before.
            if after.failures >= health.retries && before.healthy != Some(false) {
                let checks = if after.failures == 1 { "check" } else { "checks in a row" };
                let message = format!("{} failed {checks}: {reason}", after.failures);
                events.push(Event { kind: UNHEALTHY, message });
                after.healthy = Some(false);
            }
            after.message = Some(reason);
        }
    }
    for (key, message) in &near {
        if !before.near.iter().any(|known| known == key) {
            events.push(Event { kind: LIMIT, message: message.clone() });
        }
    }
    after.near = near.into_iter().map(|(key, _)| key.to_owned()).collect();
    (after, events)
}

/// Returns whether the action is due: when the machine becomes unhealthy, and after as many further failures, as it
/// may have failed or been interrupted.
fn is_due(before: &HealthState, after: &HealthState, health: &Health, events: &[Event]) -> bool {
    let is_further = after.healthy == Some(false) && after.failures > before.failures;
    events.iter().any(|event| event.kind == UNHEALTHY)
        || (is_further && after.failures.is_multiple_of(health.retries.max(1)))
}

/// Returns the limits that a machine has nearly reached, each with a message. Memory that the kernel can take
/// back does not count.
fn near_limits(record: &Record) -> Vec<(&'static str, String)> {
    let Some(cgroup) = &record.cgroup else { return Vec::new() };
    let number = |file: &str| read_number(cgroup.join(file));
    let used = number("memory.current").map(|memory| memory.saturating_sub(reclaimable(cgroup)));
    let memory = near("resources.memory-max", used, number("memory.max"), size::rounded);
    let tasks =
        near("resources.tasks-max", number("pids.current"), number("pids.max"), |tasks| tasks.to_string());
    memory.into_iter().chain(tasks).collect()
}

/// Returns the size of the file pages that were not used for a while, bytes (`memory.stat`).
fn reclaimable(cgroup: &Path) -> u64 {
    let text = std::fs::read_to_string(cgroup.join("memory.stat")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("inactive_file "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

fn near(
    key: &'static str,
    used: Option<u64>,
    limit: Option<u64>,
    show: impl Fn(u64) -> String,
) -> Option<(&'static str, String)> {
    let (used, limit) = (used?, limit?);
    let is_near = u128::from(used) * 100 >= u128::from(limit) * u128::from(NEAR);
    is_near.then(|| (key, format!("{key} is nearly reached: {} of {}", show(used), show(limit))))
}

/// Carries out the action of the definition. The jobs are queued only: this process may be part of them.
fn act(paths: &Paths, record: &Record, action: HealthAction) -> Result<()> {
    let names = std::slice::from_ref(&record.name);
    let done = match action {
        HealthAction::None => Ok(()),
        HealthAction::Restart => start::restart(paths, names, StartWait::No, &mut Progress::silent()),
        HealthAction::Stop => start::stop(paths, names, &mut Progress::silent()),
        HealthAction::Kill => signal::kill_leader(record).map_err(|error| vec![error]),
    };
    done.map_err(|mut errors| errors.swap_remove(0).context("the machine is unhealthy"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(retries: u64) -> Health {
        Health {
            command: Some("true".into()),
            interval: Duration::from_secs(1),
            retries,
            action: HealthAction::None,
        }
    }

    #[test]
    fn a_machine_is_unhealthy_once_after_failures_in_a_row() {
        let health = health(2);
        let mut state = HealthState::default();
        let mut kinds = Vec::new();
        let failed = || Some(Err("x".to_owned()));
        for result in [failed(), Some(Ok(())), failed(), failed(), failed(), Some(Ok(())), Some(Ok(()))] {
            let (after, events) = judge(&state, &health, result, Vec::new());
            kinds.push(events.iter().map(|event| event.kind).collect::<Vec<_>>());
            state = after;
        }
        let none: [&str; 0] = [];
        assert_eq!(kinds, [&none[..], &[HEALTHY], &none, &[UNHEALTHY], &none, &[HEALTHY], &none]);
        assert_eq!((state.healthy, state.failures), (Some(true), 0));
    }

    #[test]
    fn the_age_of_a_process_is_that_of_the_host_at_most() {
        let age_of_host = age(1).unwrap();
        assert!(age(std::process::id()).unwrap() <= age_of_host && age_of_host > Duration::ZERO);
        assert_eq!(age(u32::MAX), None);
    }

    #[test]
    fn the_action_is_repeated_after_further_failures() {
        let health = health(2);
        let mut state = HealthState::default();
        let mut due = Vec::new();
        for _ in 0..5 {
            let (after, events) = judge(&state, &health, Some(Err("x".to_owned())), Vec::new());
            due.push(is_due(&state, &after, &health, &events));
            // Nothing is due without a result.
            let (same, events) = judge(&after, &health, None, Vec::new());
            assert!(!is_due(&after, &same, &health, &events));
            state = after;
        }
        assert_eq!(due, [false, true, false, true, false]);
    }

    #[test]
    fn a_machine_with_more_failures_than_allowed_is_unhealthy() {
        let before = HealthState { healthy: Some(true), failures: 5, ..HealthState::default() };
        let (after, events) = judge(&before, &health(2), Some(Err("x".to_owned())), Vec::new());
        assert!(after.healthy == Some(false) && events[0].kind == UNHEALTHY);
        assert!(is_due(&before, &after, &health(2), &events));
    }

    #[test]
    fn a_limit_is_reported_when_it_is_approached() {
        let limit = |used| near("resources.tasks-max", Some(used), Some(100), |tasks| tasks.to_string());
        assert_eq!(limit(89), None);
        let near = limit(90).into_iter().collect::<Vec<_>>();
        assert_eq!(near[0].1, "resources.tasks-max is nearly reached: 90 of 100");
        let (state, events) = judge(&HealthState::default(), &health(1), None, near.clone());
        assert_eq!((events.len(), events[0].kind), (1, LIMIT));
        let (state, events) = judge(&state, &health(1), None, near);
        assert!(events.is_empty() && state.near == ["resources.tasks-max"]);
        let (state, _) = judge(&state, &health(1), None, Vec::new());
        assert!(state.near.is_empty());
    }
}
