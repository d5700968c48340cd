//! `start`, `stop`, `restart`, `enable` and `disable`: through units, waiting for their jobs. Machines
//! outside of their unit are stopped through their supervisor.

use super::loopback_ports;
use super::machine_ids;
use super::preflight;
use super::progress::Progress;
use super::resources;
use super::status::waiting_for;
use super::{BatchResult, block_on, defined, each, service, signal};
use crate::config::{self, Resolved};
use crate::error::{Error, Result};
use crate::generator;
use crate::host::cgroup_move::CgroupMove;
use crate::host::systemd::units;
use crate::host::systemd::units::JobAction;
use crate::image::recovery;
use crate::machine::name::Name;
use crate::machine::unit_name::{ServiceTemplate, machine_of};
use crate::paths::Paths;
use crate::state::record::{Phase, Record};
use std::ops::ControlFlow;
use std::time::Instant;

/// The end of the wait for a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartWait {
    /// The unit is active, which depends on the definition.
    Unit,
    /// The guest reports that it is ready, independent of the definition.
    Ready,
    /// PID 1 was executed.
    Running,
    /// The job is queued.
    No,
}

/// Starts machines as units. Machines with an invalid definition are not started. systemd is reloaded if a
/// definition has changed since the last reload.
///
/// # Errors
/// One per machine that did not start.
pub(crate) fn start(
    paths: &Paths,
    names: &[Name],
    wait: StartWait,
    progress: &mut Progress<'_>,
) -> BatchResult {
    up(JobAction::Start, paths, names, wait, progress)
}

/// Returns the machines that start at boot.
///
/// # Errors
/// A directory of definitions that cannot be read.
pub(crate) fn enabled(paths: &Paths) -> Result<Vec<Name>> {
    let names = config::names(paths)?.into_iter();
    Ok(names.filter(|name| is_enabled(paths, name)).collect())
}

/// Returns whether a machine starts at boot.
pub(super) fn is_enabled(paths: &Paths, name: &Name) -> bool {
    let template = config::service_template(paths, name);
    paths.is_wanted(&template.service(name), template.target())
}

/// Stops running machines and starts all of them.
///
/// # Errors
/// One per machine that did not start.
pub(crate) fn restart(
    paths: &Paths,
    names: &[Name],
    wait: StartWait,
    progress: &mut Progress<'_>,
) -> BatchResult {
    up(JobAction::Restart, paths, names, wait, progress)
}

/// Shuts down machines cleanly and waits until they have stopped. A stopped machine is not an error.
///
/// # Errors
/// One per machine that does not exist or failed to stop.
pub(crate) fn stop(paths: &Paths, names: &[Name], progress: &mut Progress<'_>) -> BatchResult {
    let (present, missing): (Vec<Name>, Vec<Name>) =
        names.iter().cloned().partition(|name| is_known(paths, name));
    let known = each(&missing, |name| Err(config::missing(paths, name)));
    let (others, units): (Vec<Name>, Vec<Name>) =
        present.into_iter().partition(|name| runs_without_service(paths, name) || !units::is_running());
    let through_units = if units.is_empty() {
        Ok(())
    } else {
        let services: Vec<String> = units.iter().map(|name| service(paths, name)).collect();
        run(JobAction::Stop, paths, &services, StartWait::Unit, progress)
    };
    let directly = each(&others, |name| {
        let Some(record) = Record::read(paths, name)?.filter(Record::is_alive) else { return Ok(()) };
        progress.show(name.as_str(), "stopping");
        signal::stop_and_wait(&record, || {
            progress.clear();
            report_slow_stop(paths, name);
        })
    });
    merge(known, merge(through_units, directly))
}

/// Returns whether a machine has a definition, an image, a record or an active unit.
fn is_known(paths: &Paths, name: &Name) -> bool {
    let has_unit = || {
        let status = block_on(units::unit_properties(&service(paths, name))).and_then(|status| status);
        status.is_ok_and(|status| status.active_state != "inactive")
    };
    Record::read(paths, name).ok().flatten().is_some()
        || config::exists(paths, name)
        || (units::is_running() && has_unit())
}

/// Refuses a machine that does not exist.
fn require_known(paths: &Paths, name: &Name) -> Result<()> {
    if is_known(paths, name) { Ok(()) } else { Err(config::missing(paths, name)) }
}

/// Enables the start of machines at boot. Returns the changes, one line each.
///
/// # Errors
/// An invalid definition, a host without systemd, or a refusal by systemd.
pub(crate) fn enable(paths: &Paths, names: &[Name]) -> Result<Vec<String>> {
    require_systemd()?;
    let mut enabled = Vec::new();
    for name in names {
        let machine = defined(paths, name)?;
        enabled.push((machine.service_template(), machine.service()));
    }
    // The targets as well: they start the enabled machines.
    let is_used = |template: &ServiceTemplate| enabled.iter().any(|(used, _)| used == template);
    let targets =
        ServiceTemplate::ALL.into_iter().filter(is_used).map(|template| template.target().to_owned());
    let targets: Vec<String> = targets.collect();
    let units: Vec<String> = enabled.into_iter().map(|(_, service)| service).chain(targets).collect();
    block_on(units::enable(&units))?
}

/// Disables the start of machines at boot, also of deleted ones. Returns the changes, one line each, and the
/// errors of machines that neither exist nor were enabled.
///
/// # Errors
/// A host without systemd, or a refusal by systemd.
pub(crate) fn disable(paths: &Paths, names: &[Name]) -> Result<(Vec<String>, BatchResult)> {
    require_systemd()?;
    let service = |name: &Name| config::service_template(paths, name).service(name);
    let units: Vec<String> = names.iter().map(service).collect();
    let changes = block_on(units::disable(&units))??;
    let known = each(names, |name| match changes.iter().any(|change| change.contains(&service(name))) {
        true => Ok(()),
        false => require_known(paths, name),
    });
    Ok((changes, known))
}

/// Starts or restarts machines.
fn up(
    action: JobAction,
    paths: &Paths,
    names: &[Name],
    wait: StartWait,
    progress: &mut Progress<'_>,
) -> BatchResult {
    require_systemd().map_err(|error| vec![error])?;
    recovery::recover(paths);
    // Beside the work of systemd until it executes the supervisor. A client that waits for nothing ends
    // first, and the child would keep its standard streams open.
    let _early_move = (wait != StartWait::No).then(CgroupMove::begin).flatten();
    let (mut good, mut services) = (Vec::new(), Vec::new());
    let (mut outdated, mut limits) = (Vec::new(), Vec::new());
    let before = each(names, |name| {
        if let Some(running) = running_unit(paths, name) {
            let unit = config::service_template(paths, name).service(name);
            if running.as_ref() != Some(&unit) {
                let message = format!("machine '{name}' is already running outside of its unit '{unit}'");
                return Err(Error::new(message).with_hint(format!("stop it first: coracle stop {name}")));
            }
        }
        let Resolved { machine, ignored, .. } = startable(action, paths, name)?;
        ignored.iter().for_each(|problem| log::warn!("{problem}"));
        services.push(machine.service());
        let unenforced = resources::unenforced(&machine.resources).into_iter();
        limits.extend(
            unenforced.map(|(_, message)| format!("machine '{name}': {message}, see 'coracle doctor'")),
        );
        let unanswered = loopback_ports::unanswered(machine.network.zone.as_ref(), &machine.network.ports);
        limits.extend(
            unanswered.map(|message| format!("machine '{name}': {message}; {}", loopback_ports::HINT)),
        );
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
                "the limits of machine '{}' are not in effect: systemd has not run {}, ignoring",
                machine.name,
                generator::PROGRAM
            );
        }
    }
    let started = run(action, paths, &services, wait, progress);
    limits.iter().for_each(|limit| log::warn!("{limit}"));
    report_shared_ids(paths, &good);
    if wait == StartWait::Unit {
        let records = good.iter().filter_map(|name| Some((name, Record::read(paths, name).ok()??)));
        records
            .filter(|(_, record)| record.is_late)
            .for_each(|(name, record)| log::warn!("{}", late(name, &record)));
    }
    if wait != StartWait::Ready || started.is_err() {
        return merge(before, started);
    }
    let ready = each(&good, |name| until_ready(paths, name, progress));
    progress.clear();
    merge(before, ready)
}

/// Warns of started machines with the machine id of another one.
fn report_shared_ids(paths: &Paths, names: &[Name]) {
    for shared in names.iter().filter_map(|name| machine_ids::shared_by(paths, name)) {
        log::warn!("{}\nhint: {}", shared.message, shared.hint);
    }
}

/// Returns the machine of a definition. Before a running machine is stopped, the requirements of its next
/// start are checked.
fn startable(action: JobAction, paths: &Paths, name: &Name) -> Result<Resolved> {
    let is_stopped_first = action == JobAction::Restart && running_unit(paths, name).is_some();
    let resolved = config::machine(paths, name).and_then(|resolved| {
        resolved.refuse_open_secrets()?;
        if is_stopped_first {
            preflight::refuse_missing(paths, &resolved.machine)?;
        }
        Ok(resolved)
    });
    resolved.map_err(|error| match is_stopped_first {
        true => error.context(format!("machine '{name}' was left running")),
        false => error,
    })
}

/// Waits until the guest of an active unit reports that it is ready. A guest with an init that never reports
/// is ready from the start.
fn until_ready(paths: &Paths, name: &Name, progress: &mut Progress<'_>) -> Result<()> {
    loop {
        match Record::read(paths, name)?.filter(Record::is_alive) {
            Some(record) if record.phase == Phase::Running => return Ok(()),
            Some(record) if record.is_late => return Err(late(name, &record)),
            Some(record) => progress.show(name.as_str(), record.phase.as_str()),
            None => {
                return Err(Error::new(format!("machine '{name}' stopped before its guest was ready"))
                    .with_hint(format!("see 'coracle status {name}' and 'coracle logs {name}'")));
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Returns the error for a machine that is not ready in time.
fn late(name: &Name, record: &Record) -> Error {
    let waits =
        record.waits_for.as_ref().map_or_else(String::new, |unit| format!(": it is waiting for '{unit}'"));
    Error::new(format!("machine '{name}' is not ready after boot.start-timeout{waits}"))
        .with_hint(format!("see 'coracle logs {name}', or set a longer boot.start-timeout"))
}

/// Runs the jobs of units.
fn run(
    action: JobAction,
    paths: &Paths,
    units: &[String],
    wait: StartWait,
    progress: &mut Progress<'_>,
) -> BatchResult {
    let until = if wait == StartWait::No { units::Until::Queued } else { units::Until::Done };
    let (begun, mut reported) = (Instant::now(), Vec::new());
    let mut report = |unit: &str, text: &str| {
        if begun.elapsed() >= signal::UNREPORTED && !reported.contains(&unit.to_owned()) {
            progress.clear();
            if Name::new(machine_of(unit)).is_ok_and(|name| report_slow_stop(paths, &name)) {
                reported.push(unit.to_owned());
            }
        }
        let waits = if text.is_empty() { stop_progress(paths, unit) } else { None };
        match waits {
            Some(waits) => progress.show(machine_of(unit), &waits),
            None if text.is_empty() => {}
            None => progress.show(machine_of(unit), text),
        }
        if wait == StartWait::Running && is_past_start(text) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let finished = block_on(units::run(action, units, until, &mut report))
        .and_then(|finished| finished)
        .map_err(|error| vec![error])?;
    progress.clear();
    let failures: Vec<Error> = finished
        .into_iter()
        .filter_map(|one| {
            let name = machine_of(&one.unit).to_owned();
            one.result.err().map(|error| match error.hint() {
                // Of a refused request.
                Some(_) if !rustix::process::geteuid().is_root() => error,
                _ => error.with_hint(format!("see 'coracle status {name}' and 'coracle logs {name}'")),
            })
        })
        .collect();
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// Describes the processes that delay the stop of a unit without a status text.
fn stop_progress(paths: &Paths, unit: &str) -> Option<String> {
    let record = Record::read(paths, &Name::new(machine_of(unit)).ok()?).ok()??;
    Some(format!("stopping: waiting for {}", waiting_for(&record)?))
}

/// Reports what the stop of a machine waits for. Returns whether it waits.
fn report_slow_stop(paths: &Paths, name: &Name) -> bool {
    let record = Record::read(paths, name).ok().flatten();
    let waits = record.and_then(|record| waiting_for(&record));
    waits.inspect(|units| log::info!("machine '{name}' is stopping: waiting for {units}")).is_some()
}

/// Returns whether a status text of a supervisor, `PHASE: detail`, is of a phase after the execution of PID
/// 1.
fn is_past_start(text: &str) -> bool {
    let phase = text.split(':').next().unwrap_or_default().trim();
    [Phase::Booting, Phase::Running].iter().any(|past| past.as_str() == phase)
}

/// Returns whether a machine is running outside of a service of machines.
fn runs_without_service(paths: &Paths, name: &Name) -> bool {
    let is_other = |unit: Option<String>| unit.is_none_or(|unit| ServiceTemplate::of_unit(&unit).is_none());
    running_unit(paths, name).is_some_and(is_other)
}

/// Returns the unit of a running machine, if it has one. `None` if it is not running.
fn running_unit(paths: &Paths, name: &Name) -> Option<Option<String>> {
    let record = Record::read(paths, name).ok().flatten().filter(Record::is_alive);
    record.map(|record| record.unit)
}

/// Returns an error without systemd.
fn require_systemd() -> Result<()> {
    if units::is_running() {
        return Ok(());
    }
    Err(Error::new("PID 1 of this host is not systemd")
        .with_hint("run the machine in the foreground: coracle run -b -M NAME"))
}

/// Merges the failures of two outcomes.
fn merge(one: BatchResult, other: BatchResult) -> BatchResult {
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
    fn stopping_a_stopped_machine_succeeds() {
        let root = tempfile::tempdir().unwrap();
        if !units::is_running() {
            let names = [Name::new("web").unwrap()];
            let stop = || stop(&Paths::below(root.path()), &names, &mut Progress::silent());
            assert!(stop().is_err());
            std::fs::create_dir_all(root.path().join("var/lib/machines/web/usr")).unwrap();
            assert_eq!(stop(), Ok(()));
        }
    }
}
