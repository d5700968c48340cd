//! A machine in the foreground: its caller waits for its end. Called by `cli`. The phases are separate
//! functions: the stack of one is free for the next.

use super::{
    Place, RunMode, StartRequest, facts, placement, prepare_process, register_again, root, start, warn,
};
use crate::claim;
use crate::config::{self, Options};
use crate::error::{Error, Kind, Result};
use crate::image::attach as image;
use crate::image::{recovery, template};
use crate::machine::Machine;
use crate::machine::contract::Contract;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::plan;
use crate::state::id_ranges::RangeRetention;
use crate::supervisor::cleanup;
use crate::supervisor::handover::{self, Carried, Running};
use crate::supervisor::supervise::{self, SupervisionResult};
use crate::sys::entry;
use crate::sys::process::interrupt;
use std::path::Path;

/// Runs all acts in the foreground. Returns the payload's exit status.
///
/// # Errors
/// The reason why the machine does not run, of kind [`Kind::Launch`].
pub(crate) fn foreground(
    paths: &Paths,
    options: Options,
    template: Option<&Path>,
    provision: &dyn Fn(&Machine) -> Result<()>,
    mode: RunMode,
) -> Result<u8> {
    let of_launch = |error: Error| error.with_kind(Kind::Launch);
    if mode == RunMode::Run {
        crate::host::require_root().map_err(of_launch)?;
    }
    let kept = handover::receive()?.map(Carried::from_running);
    if mode == RunMode::Run {
        recovery::recover(paths);
    }
    let machine = resolve(paths, options, kept.as_deref(), mode).map_err(of_launch)?;
    if mode == RunMode::DryRun {
        let plan = dry_run(paths, &machine);
        plan.and_then(|plan| crate::cli::output::text(&plan)).map_err(of_launch)?;
        return Ok(0);
    }
    if kept.is_none() {
        prepare_root(paths, &machine, template, provision).map_err(of_launch)?;
    }
    let running = start_in_foreground(paths, &machine, kept).map_err(of_launch)?;
    supervise_in_foreground(paths, &machine.name, running)
}

/// Returns the machine of the options, with the warnings about it printed.
#[inline(never)]
fn resolve(paths: &Paths, options: Options, kept: Option<&Carried>, mode: RunMode) -> Result<Box<Machine>> {
    let name = kept.map(|kept| kept.state.record.name.clone());
    let mut resolved = config::run(paths, options, name.as_ref()).inspect_err(|_| {
        if let Some(kept) = kept {
            // A failed reboot: without a unit, the previous boot is cleaned up here.
            cleanup::undo(paths, &kept.state.record);
        }
    })?;
    // Before the first message: it may execute the program again.
    prepare_process(mode, &resolved.machine, kept)?;
    warn(&resolved);
    let machine = &mut resolved.machine;
    root::protect_image(machine)?;
    root::find_pivot(machine)?;
    if machine.contract == Contract::Nspawn {
        for name in machine.drop_unknown_calls(plan::filter::is_known) {
            log::warn!("unknown system call or group '{name}', ignoring");
        }
        if kept.is_none() {
            log::info!("running machine '{}' on '{}'", machine.name, machine.root.path().display());
        }
    }
    Ok(resolved.machine)
}

/// Starts the machine. Signals that arrive meanwhile end it.
#[inline(never)]
fn start_in_foreground(paths: &Paths, machine: &Machine, kept: Option<Box<Carried>>) -> Result<Box<Running>> {
    let arguments = entry::arguments().split_off(1);
    let request = StartRequest::new(paths, machine, RangeRetention::WhileRunning, arguments);
    // There is no unit that cleans up after a killed start. The event loop reads the signals; after the exec
    // of a reboot they are blocked already.
    let signals = kept.is_none().then(interrupt::block).transpose()?;
    match start(request, Place::in_foreground, kept) {
        Ok(running) => {
            signals.into_iter().for_each(interrupt::Blocked::keep);
            Ok(running)
        }
        Err(error) => {
            // A signal ends the program in its usual way, systemd-nspawn(1) with the status of a failure.
            if machine.contract == Contract::Nspawn {
                signals.into_iter().for_each(interrupt::Blocked::discard);
            }
            Err(error)
        }
    }
}

/// Supervises the machine until it ends. Returns its exit status.
#[inline(never)]
fn supervise_in_foreground(paths: &Paths, name: &Name, mut running: Box<Running>) -> Result<u8> {
    loop {
        let supervised = supervise::supervise(running).inspect_err(|_| {
            // There is no unit whose `ExecStopPost=` does it.
            cleanup::after(paths, name).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
        });
        match supervised.map_err(|error| error.with_kind(Kind::Launch))? {
            SupervisionResult::Ended(status) => return Ok(status),
            SupervisionResult::Reboot(again) => return Err(again.execute(&again.state.arguments)),
            SupervisionResult::Register(again) => running = register_again(again),
            SupervisionResult::Reexec(again) => running = again,
        }
    }
}

/// Creates a missing root from a template, and writes its first settings.
fn prepare_root(
    paths: &Paths,
    machine: &Machine,
    template: Option<&Path>,
    provision: &dyn Fn(&Machine) -> Result<()>,
) -> Result<()> {
    template.map_or(Ok(()), |template| create_root(paths, machine, template))?;
    provision(machine)
}

/// Creates a missing root from a template.
#[inline(never)]
fn create_root(paths: &Paths, machine: &Machine, template: &Path) -> Result<()> {
    placement::check_process()?;
    let root = machine.root.path().display();
    let total = || crate::tree::usage::of(template).ok();
    let created = crate::cli::output::with_progress(|progress| {
        let mut bar = progress.bar(machine.name.as_str(), &total)?;
        template::create(paths, machine, template, &mut |bytes| bar.advance(bytes))
    });
    match created? {
        Some(method) => log::info!("created '{root}' from '{}': {method}", template.display()),
        None => log::debug!("'{root}' exists: the template is not used"),
    }
    Ok(())
}

/// Returns the plan of a machine as text. Claims nothing.
#[inline(never)]
fn dry_run(paths: &Paths, machine: &Machine) -> Result<String> {
    claim::refuse_running(paths, &machine.name)?;
    let keep = RangeRetention::WhileRunning;
    let root = root::open(machine)?;
    let tree = root.tree.as_ref();
    let request = claim::ClaimRequest { paths, machine, root: tree, keep, unit: None, undo: cleanup::undo };
    let choice = claim::preview(&request)?;
    let attached = image::preview(paths, machine, choice.ids.base, choice.ids.mapped_from)?;
    let tree = root::attach(machine, root, attached.as_ref(), keep)?;
    let found = facts::find(paths, machine, &tree, attached.as_ref(), &choice)?;
    let plan = plan::make(machine, &found.facts)?;
    Ok(format!("# claims nothing: ids and addresses are free now and may be taken at the start\n{plan}"))
}
