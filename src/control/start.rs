//! start, stop, restart, enable, disable: through the units, with their jobs waited for. Machines
//! that run outside a unit of ours are stopped through their supervisor.

use super::progress::Progress;
use super::status::waiting_for;
use super::{Outcome, block_on, defined, each, signal};
use crate::error::{Error, Result};
use crate::generator;
use crate::host::systemd::units;
use crate::host::systemd::units::Action;
use crate::machine::name::Name;
use crate::machine::unit;
use crate::machine::unit::machine_of;
use crate::paths::Paths;
use crate::state::record::{Phase, Record};
use std::ops::ControlFlow;

/// The target that starts the enabled machines.
const TARGET: &str = "coracle.target";

/// How long a start is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until the unit is up, which is when its definition says.
    Unit,
    /// Until the guest says that it is up, whatever its definition says.
    Ready,
    /// Until PID 1 was executed.
    Running,
    /// Until the job is queued.
    No,
}

/// Starts machines as units. A definition that is broken is not started; one that systemd has not
/// read yet as it is now is read first.
///
/// # Errors
/// One for each machine that did not come up.
pub fn start(paths: &Paths, names: &[Name], wait: Wait, progress: &mut Progress<'_>) -> Outcome {
    up(Action::Start, paths, names, wait, progress)
}

/// Stops machines that run and starts all of them.
///
/// # Errors
/// One for each machine that did not come up.
pub fn restart(paths: &Paths, names: &[Name], wait: Wait, progress: &mut Progress<'_>) -> Outcome {
    up(Action::Restart, paths, names, wait, progress)
}

/// Stops machines in their own orderly way and waits until they are gone. Stopping one that does
/// not run is fine.
///
/// # Errors
/// One for each machine that did not stop as it should.
pub fn stop(paths: &Paths, names: &[Name], progress: &mut Progress<'_>) -> Outcome {
    let (others, units): (Vec<Name>, Vec<Name>) =
        names.iter().cloned().partition(|name| runs_elsewhere(paths, name) || !units::is_running());
    let through_units =
        if units.is_empty() { Ok(()) } else { run(Action::Stop, paths, &units, Wait::Unit, progress) };
    let directly = each(&others, |name| {
        let Some(record) = Record::read(paths, name)?.filter(Record::is_alive) else { return Ok(()) };
        progress.show(name.as_str(), "stopping");
        signal::stop_and_wait(&record)
    });
    join(through_units, directly)
}

/// Lets machines start with the host. Returns what changed, a line each.
///
/// # Errors
/// A broken definition, a host without systemd, or a refusal of systemd.
pub fn enable(paths: &Paths, names: &[Name]) -> Result<Vec<String>> {
    needs_systemd()?;
    for name in names {
        defined(paths, name)?;
    }
    // The target with them: without it nothing would start them.
    let units: Vec<String> = names.iter().map(unit::service).chain([TARGET.to_owned()]).collect();
    block_on(units::enable(&units))?
}

/// Lets machines no longer start with the host. Returns what changed, a line each.
///
/// # Errors
/// A host without systemd, or a refusal of systemd.
pub fn disable(names: &[Name]) -> Result<Vec<String>> {
    needs_systemd()?;
    let units: Vec<String> = names.iter().map(unit::service).collect();
    block_on(units::disable(&units))?
}

/// Start and restart.
fn up(action: Action, paths: &Paths, names: &[Name], wait: Wait, progress: &mut Progress<'_>) -> Outcome {
    needs_systemd().map_err(|error| vec![error])?;
    let mut good = Vec::new();
    let mut outdated = Vec::new();
    let before = each(names, |name| {
        if runs_elsewhere(paths, name) {
            return Err(Error::new(format!(
                "machine '{name}' runs already, outside the unit '{}'",
                unit::service(name)
            ))
            .with_hint(format!("stop it with 'coracle stop {name}' first")));
        }
        let machine = defined(paths, name)?;
        if !generator::is_current(paths, &machine) {
            outdated.push(machine);
        }
        good.push(name.clone());
        Ok(())
    });
    if good.is_empty() {
        return before;
    }
    if !outdated.is_empty() {
        block_on(units::reload()).and_then(|reloaded| reloaded).map_err(|error| vec![error])?;
        for machine in outdated.iter().filter(|machine| !generator::is_current(paths, machine)) {
            log::warn!(
                "the limits of machine '{}' are not in force: systemd has not run {}, ignoring",
                machine.name,
                generator::PROGRAM
            );
        }
    }
    let started = run(action, paths, &good, wait, progress);
    if wait == Wait::Unit {
        let records = good.iter().filter_map(|name| Some((name, Record::read(paths, name).ok()??)));
        records
            .filter(|(_, record)| record.is_late)
            .for_each(|(name, record)| log::warn!("{}", late(name, &record)));
    }
    if wait != Wait::Ready || started.is_err() {
        return join(before, started);
    }
    let ready = each(&good, |name| until_ready(paths, name, progress));
    progress.clear();
    join(before, ready)
}

/// Waits until a guest whose unit is up says that it is up itself. One whose init never does counts
/// as up from the start.
fn until_ready(paths: &Paths, name: &Name, progress: &mut Progress<'_>) -> Result<()> {
    loop {
        match Record::read(paths, name)?.filter(Record::is_alive) {
            Some(record) if record.phase == Phase::Running => return Ok(()),
            Some(record) if record.is_late => return Err(late(name, &record)),
            Some(record) => progress.show(name.as_str(), record.phase.as_str()),
            None => {
                return Err(Error::new(format!("machine '{name}' stopped before its guest was up"))
                    .with_hint(format!("see 'coracle status {name}' and 'coracle logs {name}'")));
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Why a machine is not up in time.
fn late(name: &Name, record: &Record) -> Error {
    let waits = record.waits_for.as_ref().map_or_else(String::new, |unit| format!(": it waits for '{unit}'"));
    Error::new(format!("machine '{name}' is not up after boot.start-timeout{waits}"))
        .with_hint(format!("see 'coracle logs {name}', or set a longer boot.start-timeout"))
}

/// Runs the jobs of the units of `names`.
fn run(action: Action, paths: &Paths, names: &[Name], wait: Wait, progress: &mut Progress<'_>) -> Outcome {
    let units: Vec<String> = names.iter().map(unit::service).collect();
    let until = if wait == Wait::No { units::Until::Queued } else { units::Until::Done };
    let mut heard = |unit: &str, text: &str| {
        let waits = if text.is_empty() { stop_progress(paths, unit) } else { None };
        match waits {
            Some(waits) => progress.show(machine_of(unit), &waits),
            None if text.is_empty() => {}
            None => progress.show(machine_of(unit), text),
        }
        if wait == Wait::Running && is_past_start(text) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let finished = block_on(units::run(action, &units, until, &mut heard))
        .and_then(|finished| finished)
        .map_err(|error| vec![error])?;
    progress.clear();
    let failures: Vec<Error> = finished
        .into_iter()
        .filter_map(|one| {
            let name = machine_of(&one.unit).to_owned();
            one.result.err().map(|error| {
                error.with_hint(format!("see 'coracle status {name}' and 'coracle logs {name}'"))
            })
        })
        .collect();
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// What the machine of a unit that is silent waits for, where it is stopping.
fn stop_progress(paths: &Paths, unit: &str) -> Option<String> {
    let record = Record::read(paths, &Name::new(machine_of(unit)).ok()?).ok()??;
    Some(format!("stopping: waiting for {}", waiting_for(&record)?))
}

/// Whether a status text of a supervisor, `PHASE: detail`, says that PID 1 was executed.
fn is_past_start(text: &str) -> bool {
    let phase = text.split(':').next().unwrap_or_default().trim();
    [Phase::Booting, Phase::Running].iter().any(|past| past.as_str() == phase)
}

/// Whether a machine runs, but not in the unit of its name.
fn runs_elsewhere(paths: &Paths, name: &Name) -> bool {
    let record = Record::read(paths, name).ok().flatten().filter(Record::is_alive);
    record.is_some_and(|record| record.unit != Some(unit::service(name)))
}

/// An error where there is no systemd to run units.
fn needs_systemd() -> Result<()> {
    if units::is_running() {
        return Ok(());
    }
    Err(Error::new("PID 1 of this host is not systemd, so there are no units")
        .with_hint("run the machine in the foreground: 'coracle run -b -M NAME'"))
}

/// The failures of both.
fn join(one: Outcome, other: Outcome) -> Outcome {
    match (one, other) {
        (Ok(()), other) => other,
        (one, Ok(())) => one,
        (Err(mut failures), Err(more)) => {
            failures.extend(more);
            Err(failures)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_from_the_status_text() {
        assert!(is_past_start("booting: waiting for the guest") && is_past_start("running"));
        assert!(
            !is_past_start("starting: mounting") && !is_past_start("") && !is_past_start("running around")
        );
    }

    #[test]
    fn stopping_what_does_not_run_is_fine() {
        let root = tempfile::tempdir().unwrap();
        if !units::is_running() {
            let names = [Name::new("web").unwrap()];
            assert_eq!(stop(&Paths::below(root.path()), &names, &mut Progress::silent()), Ok(()));
        }
    }
}
