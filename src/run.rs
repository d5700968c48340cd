//! The pipeline on one page: said, meant, claimed, attached, found, planned, done. Called by `main` for the
//! verbs that run a machine.

mod bound_users;
mod build;
mod facts;
mod foreground;
mod journal;
mod placement;
mod resolv_conf;
mod root;
pub mod session;
mod timezone;

use crate::claim;
use crate::config::{self, Resolved};
use crate::error::{Error, Kind, Result};
use crate::host::credentials::{self, LoadedCredential};
use crate::host::systemd::machined;
use crate::host::systemd::session::BusSession;
use crate::image::attach::{self as image, AttachRequest, AttachedRoot};
use crate::image::{owners, quota, recovery, throwaway, trial};
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::machine::network::{Interface, InterfaceKind};
use crate::machine::root::{Ephemeral, Root};
use crate::machine::users::Users;
use crate::paths::Paths;
use crate::plan::{self, Plan};
use crate::state::id_ranges::RangeRetention;
pub use crate::supervisor::detached::{DETACHED, REBOOT};
use crate::supervisor::handover::{self, Carried, Running};
use crate::supervisor::launch::{self, LaunchRequest, Placement};
use crate::supervisor::supervise::{self, SupervisionResult};
use crate::supervisor::{cleanup, current_step, failure, registration};
use crate::sys::entry;
use facts::HostFacts;
pub(crate) use foreground::foreground;
use placement::Place;
use std::ffi::{CStr, OsString};

/// The mode of `coracle run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunMode {
    /// Run the machine.
    Run,
    /// Print the plan.
    DryRun,
}

/// Executes this program again from a file that its payload cannot write to, if the arguments seem to require
/// it: all earlier work is done twice. Called before anything else. `start` repeats the check with the
/// complete definition.
pub fn protect_early() {
    let words = || entry::raw_arguments().map(CStr::to_bytes);
    let users = |word: &[u8]| word.starts_with(b"-U") || word.starts_with(b"--private-users");
    let is_run = entry::is_nspawn() || words().nth(1) == Some(b"run");
    if is_run && !words().any(users) {
        // An error occurs again in that check, and is reported there.
        let _ = crate::supervisor::protect_program(&Users::Host);
    }
}

/// The first act in a unit: creates the machine, then becomes its supervisor. Returns only on failure.
///
/// # Errors
/// The reason why the machine does not run, of kind [`Kind::Launch`].
pub(crate) fn launch_unit(paths: &Paths, name: &Name) -> Result<()> {
    let (there, machine) = (paths.clone(), name.clone());
    current_step::set("inspect the host and the root".into());
    current_step::report_panics(move |error| {
        log::error!("{error}");
        keep_reason(&there, &machine, error);
    });
    launch_in_unit(paths, name).inspect_err(|error| keep_reason(paths, name, error))
}

/// Records the reason of a failed launch, and sends it to systemd as the unit's status.
fn keep_reason(paths: &Paths, name: &Name, error: &Error) {
    failure::record_launch(paths, name, error);
    let hint = error.hint().map_or_else(String::new, |hint| format!(" (hint: {hint})"));
    let text = format!("failed: {error}{hint}").replace('\n', " ");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&text)]);
}

fn launch_in_unit(paths: &Paths, name: &Name) -> Result<()> {
    let kept = handover::receive()?.map(Carried::from_running);
    recovery::recover(paths);
    let of_launch = |error: Error| error.with_kind(Kind::Launch);
    let mut resolved = config::machine(paths, name).map_err(of_launch)?;
    resolved.refuse_open_secrets().map_err(of_launch)?;
    // Before the first message: it may execute the program again.
    prepare_process(RunMode::Run, &resolved.machine, kept.as_deref()).map_err(of_launch)?;
    warn(&resolved);
    let mut running = start_version(paths, &mut resolved.machine, kept).map_err(of_launch)?;
    // The snapshot is for `apply`; the machine runs without it.
    let values = config::snapshot::values(&resolved.settings);
    config::snapshot::write(paths, name, &values).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    supervise::announce(&mut running).map_err(of_launch)?;
    Err(running.execute(&["supervise".into()]))
}

/// Starts a machine in its unit. A version that cannot be started is followed by the next older one.
fn start_version(
    paths: &Paths,
    machine: &mut Machine,
    mut kept: Option<Box<Carried>>,
) -> Result<Box<Running>> {
    let mut failed = kept.as_ref().and_then(|kept| kept.state.record.failed_version.clone());
    let mut is_again = kept.is_some();
    let mut tried = Vec::new();
    loop {
        let version = trial::begin(paths, &machine.name, &machine.root, failed.as_deref(), is_again)?;
        machine.replace_root(version.clone());
        let error = match start_in_unit(paths, machine, kept.take()) {
            Ok(running) => return Ok(running),
            Err(error) => error,
        };
        tried.extend(version.is_trial.then(|| version.path().to_owned()));
        if !version.is_trial || !trial::has_older(version.path()) {
            // None has booted: a device, a file or a lock of the host is missing.
            tried.iter().for_each(|version| trial::give_back(version));
            return Err(error);
        }
        let why = format!("version '{}' did not boot: {error}", trial::shown(version.path()));
        log::error!("{why}");
        (failed, is_again) = (Some(version.path().to_owned()), true);
        machine.replace_root(Root { is_trial: false, fallback: Some(why), ..version });
    }
}

fn start_in_unit(paths: &Paths, machine: &mut Machine, kept: Option<Box<Carried>>) -> Result<Box<Running>> {
    root::protect_image(machine)?;
    root::find_pivot(machine)?;
    let arguments = vec!["launch".into(), machine.name.as_str().into()];
    if kept.is_none() {
        placement::check_unit(machine)?;
    }
    start(StartRequest::new(paths, machine, RangeRetention::Recorded, arguments), Place::in_unit, kept)
}

/// The second act in a unit: watches until the machine ends. Returns its exit status.
///
/// # Errors
/// No machine was handed over, or the event loop failed.
pub fn supervise_unit() -> Result<u8> {
    let running = handover::receive()?.ok_or_else(|| Error::usage("'supervise' is run by 'launch' only"))?;
    match supervise::supervise(running)? {
        SupervisionResult::Ended(status) => Ok(status),
        SupervisionResult::Reboot(running) => Err(running.execute(&running.state.arguments)),
        SupervisionResult::Register(running) => {
            let running = register_again(running);
            // Executed again to free the memory of the D-Bus call while the machine idles.
            Err(running.execute(&["supervise".into()]))
        }
        SupervisionResult::Reexec(running) => Err(running.execute(&["supervise".into()])),
    }
}

/// The third act, for the unit's `ExecStopPost=`.
///
/// # Errors
/// The machine is running.
pub(crate) fn clean_up(paths: &Paths, name: &Name) -> Result<()> {
    cleanup::after(paths, name)
}

/// Cleans up after machines in the foreground and sessions whose supervisor was killed.
pub(crate) fn clean_up_killed(paths: &Paths) {
    cleanup::after_killed_runs(paths);
}

/// Recreates the firewall rules of all machines, after another program has deleted them.
///
/// # Errors
/// A failure of nftables.
pub(crate) fn reload_firewall(paths: &Paths) -> Result<()> {
    crate::supervisor::network::firewall::recreate(paths)
}

/// The stages of one machine: meant, claimed, attached, found, planned, done.
fn start(
    start: StartRequest<'_>,
    find_place: impl FnOnce(&Machine, Option<&Carried>) -> Place,
    mut kept: Option<Box<Carried>>,
) -> Result<Box<Running>> {
    let StartRequest { paths, machine, keep, arguments, begins } = start;
    let takes = |interface: &Interface| interface.kind == InterfaceKind::Moved;
    if kept.is_none()
        && (machine.root.ephemeral != Ephemeral::No || machine.network.interfaces.iter().any(takes))
    {
        cleanup::after_killed_runs(paths);
    }
    let (root, place) = (root::open(machine)?, find_place(machine, kept.as_deref()));
    let (unit, tree) = (place.unit(), root.tree.as_ref());
    let request = claim::ClaimRequest { paths, machine, root: tree, keep, unit, undo: cleanup::undo };
    let mut claims = claim_all(&request, kept.as_deref_mut(), begins)?;
    let prepared = prepare(paths, machine, root, keep, place, &mut claims, kept.as_deref_mut());
    let prepared = prepared.inspect_err(|_| {
        claim::abandon(paths, cleanup::undo, &claims.record, &mut claims.locks);
    })?;
    let request = LaunchRequest {
        paths,
        machine,
        root: prepared.root,
        facts: &prepared.found.facts,
        plan: &prepared.plan,
        lease: prepared.found.lease,
        hosts: prepared.found.hosts,
        journal: prepared.found.journal,
        credentials: prepared.credentials,
        placement: prepared.placement,
        arguments,
        kept,
    };
    launch::launch(request, claims)
}

/// The stages between the claims and the launch: attached, found, planned.
#[inline(never)]
fn prepare(
    paths: &Paths,
    machine: &Machine,
    root: root::OpenedRoot,
    keep: RangeRetention,
    place: Place,
    claims: &mut claim::Claims,
    kept: Option<&mut Carried>,
) -> Result<Box<Prepared>> {
    if claims.choice.ids.changes_owners {
        owners::change(machine, claims.choice.ids.base.unwrap_or_default())?;
    }
    quota::limit_machine(paths, machine)?;
    let attached = image::attach(AttachRequest {
        paths,
        machine,
        id_base: claims.choice.ids.base,
        mapped_from: claims.choice.ids.mapped_from,
        throwaway: claims.record.throwaway.as_deref(),
        in_memory: kept.map(|kept| kept.fds.take_layers()).unwrap_or_default(),
    })?;
    let tree = root::attach(machine, root, attached.as_ref(), keep)?;
    let mut found = facts::find(paths, machine, &tree, attached.as_ref(), &claims.choice)?;
    if let Some(throwaway) = &claims.record.throwaway {
        throwaway::create_directories(throwaway, machine, found.facts.owner())?;
        found.facts.throwaway.clone_from(throwaway);
    }
    build::complete(&mut claims.record, machine, found.facts.build.as_ref())?;
    let plan = plan::make(machine, &found.facts)?;
    placement::check_input(plan.console)?;
    let credentials = credentials::load(&machine.credentials, machine.contract)?;
    // Last: a scope is created on the host.
    let placement = place.enter(machine)?;
    Ok(Box::new(Prepared { root: attached, found, plan, credentials, placement }))
}

/// The result of [`prepare`].
struct Prepared {
    root: Option<AttachedRoot>,
    found: Box<HostFacts>,
    plan: Plan,
    credentials: Vec<LoadedCredential>,
    placement: Placement,
}

/// Claims all for a new machine, for another boot of one, or for a dead session.
fn claim_all(
    request: &claim::ClaimRequest<'_>,
    kept: Option<&mut Carried>,
    begins: Beginning,
) -> Result<Box<claim::Claims>> {
    match kept {
        Some(kept) => claim::claim_again(request, &kept.state.record, kept.fds.take_locks()),
        None if begins == Beginning::Recovered => claim::claim_dead(request),
        None => claim::claim(request),
    }
}

/// Refuses a process that cannot create machines, and protects its program from the machine. The process of a
/// reboot has done both at its first start.
fn prepare_process(mode: RunMode, machine: &Machine, kept: Option<&Carried>) -> Result<()> {
    if mode == RunMode::DryRun || kept.is_some() {
        return Ok(());
    }
    placement::check_process()?;
    crate::supervisor::protect_program(&machine.users)
}

/// The input of [`start`].
struct StartRequest<'a> {
    paths: &'a Paths,
    machine: &'a Machine,
    keep: RangeRetention,
    /// The arguments that start the machine again.
    arguments: Vec<OsString>,
    begins: Beginning,
}

impl<'a> StartRequest<'a> {
    fn new(paths: &'a Paths, machine: &'a Machine, keep: RangeRetention, arguments: Vec<OsString>) -> Self {
        Self { paths, machine, keep, arguments, begins: Beginning::New }
    }
}

/// The beginning of a machine that is not one of a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// It is new.
    New,
    /// It is a build session whose supervisor was killed.
    Recovered,
}

/// Registers a machine again after machined has lost it.
fn register_again(mut running: Box<Running>) -> Box<Running> {
    let state = &mut running.state;
    let paths = Paths::below(&state.paths_root);
    let previous = machined::PreviousOwner::Ours;
    let registered = running.fds.leader().and_then(|leader| {
        let bus = BusSession::new()?;
        registration::register(&bus, &paths, &state.record, leader, state.machine_id, previous)
    });
    match registered {
        Ok(machined::RegistrationResult::Registered) => {
            state.record.registered = true;
            let written = state.record.write(&paths);
            written.unwrap_or_else(|error| log::warn!("{error}, ignoring"));
        }
        Ok(machined::RegistrationResult::Absent(why)) => log::debug!("not registered with machined: {why}"),
        Err(error) => log::warn!("cannot register again with machined: {error}, ignoring"),
    }
    running
}

fn warn(resolved: &Resolved) {
    if !resolved.machine.switches.filter {
        log::warn!("SYSTEMD_SECCOMP=0: no filter restricts the system calls of the machine");
    }
    if resolved.machine.switches.writable_api {
        log::warn!(
            "SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes: root inside can change settings of the host's kernel"
        );
    }
    for problem in resolved.ignored.iter().chain(&resolved.warnings) {
        log::warn!("{problem}");
    }
}
