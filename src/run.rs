//! The pipeline on one page: said, meant, to do, done. Called by `main` for the verbs that make a
//! machine run.

mod facts;

use crate::config::{self, Layer, Resolved};
use crate::error::{Error, Kind, Result};
use crate::host::cgroup::Cgroup;
use crate::host::runtime::runtime;
use crate::host::systemd::{machined, units};
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::machine::users::Users;
use crate::paths::Paths;
use crate::plan;
use crate::supervisor::handover::{self, Carried, Running};
use crate::supervisor::launch::{self, Ask};
use crate::supervisor::supervise::{self, Outcome};
use crate::supervisor::{cleanup, current_step, failure, registration, reserve};
use std::ffi::OsString;

/// What `coracle run` is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Run the machine.
    Run,
    /// Say what would be done.
    DryRun,
}

/// Executes this program again from where its payload cannot write to it, when the arguments look like a run that
/// needs it: what was done before it is done twice. It is seen to again when all is read.
pub fn protect_early(arguments: &[OsString]) {
    let users = |word: &OsString| {
        word.to_str().is_some_and(|word| word.starts_with("-U") || word.starts_with("--private-users"))
    };
    if arguments.get(1).is_some_and(|verb| verb == "run") && !arguments.iter().any(users) {
        // What is refused now is refused again then, and said.
        let _ = crate::supervisor::protect_program(&Users::Host);
    }
}

/// The first act in a unit: sets the machine up, then becomes its supervisor. Returns only on
/// failure.
///
/// # Errors
/// Why the machine does not run, of kind [`Kind::Launch`].
pub fn launch_unit(paths: &Paths, name: &Name) -> Result<()> {
    let (there, machine) = (paths.clone(), name.clone());
    current_step::set("look at the host and the tree".into());
    current_step::report_panics(move |error| {
        log::error!("{error}");
        keep_reason(&there, &machine, error);
    });
    launch_in_unit(paths, name).inspect_err(|error| keep_reason(paths, name, error))
}

/// The unit keeps the reason, for whoever started it and for 'status'.
fn keep_reason(paths: &Paths, name: &Name, error: &Error) {
    failure::record_launch(paths, name, error);
    let hint = error.hint().map_or_else(String::new, |hint| format!(" (hint: {hint})"));
    let text = format!("failed: {error}{hint}").replace('\n', " ");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&text)]);
}

fn launch_in_unit(paths: &Paths, name: &Name) -> Result<()> {
    let kept = handover::receive()?.map(Carried::from);
    let resolved = config::machine(paths, name).map_err(|error| error.with_kind(Kind::Launch))?;
    warn(&resolved);
    let place = |_: &Machine, _: Option<&Carried>| {
        Ok(Place { unit: Some(crate::machine::unit::service(name)), cgroup: Some(Cgroup::of_unit()?) })
    };
    let arguments = vec!["launch".into(), name.as_str().into()];
    let running = start(paths, &resolved.machine, place, arguments, kept, Keep::Recorded)?;
    // For 'apply'; a machine can do without.
    let values = config::snapshot::values(&resolved.settings);
    config::snapshot::write(paths, name, &values).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    Err(running.execute(&["supervise".into()]))
}

/// The second act in a unit: watches until the machine ends. Returns its exit status.
///
/// # Errors
/// Where there is nothing to watch.
pub fn supervise_unit() -> Result<u8> {
    let running = handover::receive()?.ok_or_else(|| Error::usage("'supervise' is run by 'launch' only"))?;
    match supervise::supervise(running)? {
        Outcome::Ended(status) => Ok(status),
        Outcome::Reboot(running) => Err(running.execute(&running.state.arguments)),
        Outcome::Register(running) => {
            let running = register_again(*running);
            // Executed again, so that what D-Bus needed is not held while the machine idles.
            Err(running.execute(&["supervise".into()]))
        }
        Outcome::Reexec(running) => Err(running.execute(&["supervise".into()])),
    }
}

/// The third act, for the unit's `ExecStopPost=`.
///
/// # Errors
/// A machine that still runs.
pub fn clean_up(paths: &Paths, name: &Name) -> Result<()> {
    cleanup::after(paths, name)
}

/// Recreates the firewall rules of all machines, after another program has deleted them.
///
/// # Errors
/// A failure of nftables.
pub fn reload_firewall(paths: &Paths) -> Result<()> {
    crate::supervisor::network::firewall::recreate(paths)
}

/// All acts in the foreground. Returns the payload's exit status.
///
/// # Errors
/// Why the machine does not run, of kind [`Kind::Launch`].
pub fn foreground(paths: &Paths, flags: Layer, mode: Mode, arguments: Vec<OsString>) -> Result<u8> {
    let kept = handover::receive()?.map(Carried::from);
    let before = kept.as_ref().map(|kept| kept.state.record.clone());
    let outcome = in_foreground(paths, flags, mode, arguments, kept);
    if let (Err(_), Some(record)) = (&outcome, before) {
        // A reboot that came to nothing: no unit cleans up after the machine before it.
        cleanup::undo(paths, &record);
    }
    outcome
}

fn in_foreground(
    paths: &Paths,
    flags: Layer,
    mode: Mode,
    arguments: Vec<OsString>,
    kept: Option<Carried>,
) -> Result<u8> {
    let resolved = config::run(paths, flags)?;
    warn(&resolved);
    let machine = &resolved.machine;
    if mode == Mode::DryRun {
        let facts = facts::find(paths, machine, Keep::WhileRunning, kept.as_ref())?;
        crate::cli::output::text(&plan::make(machine, &facts.facts)?.to_string())?;
        return Ok(0);
    }
    let mut running = start(paths, machine, place, arguments, kept, Keep::WhileRunning)?;
    loop {
        match supervise::supervise(running)? {
            Outcome::Ended(status) => return Ok(status),
            Outcome::Reboot(again) => return Err(again.execute(&again.state.arguments)),
            Outcome::Register(again) => running = register_again(*again),
            Outcome::Reexec(again) => running = *again,
        }
    }
}

pub use crate::state::id_ranges::Keep;

/// Where a machine runs.
struct Place {
    unit: Option<String>,
    cgroup: Option<Cgroup>,
}

/// The unit or cgroup of a machine in the foreground: a scope from systemd, or what we are in, or
/// one of our own where there is no systemd.
fn place(machine: &Machine, kept: Option<&Carried>) -> Result<Place> {
    if let Some(kept) = kept {
        let record = &kept.state.record;
        let is_ours = record.cgroup_is_ours;
        let cgroup = record.cgroup.clone().map(|directory| Cgroup { directory, is_ours, is_free: true });
        return Ok(Place { unit: record.unit.clone(), cgroup });
    }
    if !units::is_running() {
        log::info!("PID 1 of this host is not systemd: the machine gets no unit and is not registered");
        return Ok(Place { unit: None, cgroup: Cgroup::of_our_own(&machine.name) });
    }
    if machine.keep_unit {
        return Ok(Place { unit: own_unit(), cgroup: Some(Cgroup::of_unit()?) });
    }
    let name = format!("coracle-{}.scope", machine.name);
    let devices = [&machine.security.optional_devices[..], &machine.security.devices].concat();
    let scope = units::Scope {
        name: &name,
        slice: machine.slice.as_deref().unwrap_or("machine.slice"),
        description: &format!("Machine {}", machine.name),
        pid: std::process::id(),
        devices: &devices,
        resources: &machine.resources,
    };
    runtime()?.block_on(units::start_scope(&scope))?;
    Ok(Place { unit: Some(name), cgroup: Some(Cgroup::of_unit()?) })
}

/// The unit we run in, by our cgroup.
fn own_unit() -> Option<String> {
    let cgroup = crate::host::cgroup::current()?;
    let names = cgroup.iter().rev().filter_map(|name| name.to_str());
    names.map(str::to_owned).find(|name| name.ends_with(".service") || name.ends_with(".scope"))
}

/// From what is meant to what is done.
fn start(
    paths: &Paths,
    machine: &Machine,
    place: impl FnOnce(&Machine, Option<&Carried>) -> Result<Place>,
    arguments: Vec<OsString>,
    kept: Option<Carried>,
    keep: Keep,
) -> Result<Running> {
    let launch = |error: Error| error.with_kind(Kind::Launch);
    if !rustix::process::geteuid().is_root() {
        return Err(launch(Error::new("making a machine needs root").with_hint("run it with sudo(8)")));
    }
    if kept.is_none() {
        reserve::refuse_chroot().map_err(launch)?;
        reserve::refuse_running(paths, &machine.name).map_err(launch)?;
        crate::supervisor::protect_program(&machine.users).map_err(launch)?;
    }
    let mut kept = kept;
    let mut place = Some(place);
    let mut placed = None;
    loop {
        let found = facts::find(paths, machine, keep, kept.as_ref()).map_err(launch)?;
        let plan = plan::make(machine, &found.facts).map_err(launch)?;
        // Last of what can fail by what was asked for: a scope is something made on the host.
        if let Some(place) = place.take() {
            placed = Some(place(machine, kept.as_ref()).map_err(launch)?);
        }
        let (unit, cgroup) = placed.as_ref().map(|place| (place.unit.clone(), place.cgroup.clone())).unzip();
        let launched = launch::launch(Ask {
            paths,
            machine,
            plan: &plan,
            link: found.link,
            lease: found.lease,
            wires: found.wires,
            names: found.names,
            root_identity: found.root_identity,
            cgroup: cgroup.flatten(),
            unit: unit.flatten(),
            machine_id: found.facts.machine_id,
            boot_id: found.facts.boot_id,
            socketcall: found.facts.socketcall,
            locks_ids: found.locks_ids,
            arguments: arguments.clone(),
            kept: kept.take(),
        });
        match launched {
            // Another machine of the zone has just taken the address: this one looks for another.
            Err(error) if error.kind() == Kind::Contended => log::debug!("{error}, looking again"),
            launched => return launched,
        }
    }
}

/// Tells machined again of a machine it has lost.
fn register_again(mut running: Running) -> Running {
    let state = &mut running.state;
    let paths = Paths::below(&state.paths_root);
    let registered = running.fds.leader().and_then(|leader| {
        registration::register(&paths, &state.record, leader, state.machine_id, machined::Previous::Ours)
    });
    match registered {
        Ok(machined::Outcome::Registered) => {
            state.record.registered = true;
            let written = state.record.write(&paths);
            written.unwrap_or_else(|error| log::warn!("{error}, ignoring"));
        }
        Ok(machined::Outcome::Absent(why)) => log::debug!("not registered with machined: {why}"),
        Err(error) => log::warn!("cannot register again with machined: {error}, ignoring"),
    }
    running
}

fn warn(resolved: &Resolved) {
    for problem in &resolved.warnings {
        log::warn!("{problem}");
    }
}
