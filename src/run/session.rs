//! The start of a build session: an ephemeral machine whose supervisor is detached from its caller. Called by
//! `cli`.

use super::{Beginning, Place, RunMode, StartRequest, prepare_process, root, start, warn};
use crate::config::build::{self as config, BuildOptions};
use crate::error::{Context, Error, Result};
use crate::host::lock::LockMode;
use crate::host::{cgroup_leaf, lock};
use crate::image::store::Store;
use crate::image::{commit, recovery, throwaway};
use crate::machine::Machine;
use crate::machine::build::Build;
use crate::machine::init::Personality;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::plan::init::Architecture;
use crate::state::build::keep_environment;
use crate::state::id_ranges::RangeRetention;
use crate::state::kept_sessions;
use crate::state::record::Record;
use crate::supervisor::cleanup;
use crate::supervisor::detached::{self, DETACHED, REBOOT};
use crate::supervisor::handover::{self, Carried, FdName, Running};
use crate::sys::process::interrupt;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// The verb of supervisors.
const SUPERVISE: &str = "supervise";

/// A session to begin.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SessionRequest {
    /// Its name. `None` for one with random digits.
    pub(crate) name: Option<Name>,
    /// The settings of its machine.
    pub(crate) options: BuildOptions,
    /// Its build user and its results.
    pub(crate) build: Build,
    /// The time after which it ends.
    pub(crate) lifetime: Option<Duration>,
    /// The processes with whose first it ends.
    pub(crate) with_processes: Vec<u32>,
    /// Whether a user without the rights of root has begun it, through the service.
    #[serde(default)]
    pub(crate) is_of_user: bool,
}

/// Returns the memory of the host, bytes.
pub(crate) fn memory() -> u64 {
    let found = rustix::system::sysinfo();
    found.totalram.saturating_mul(found.mem_unit.into())
}

/// Begins a session. It is running when the function returns its name.
///
/// # Errors
/// The reason why it does not run; then nothing of it is left.
pub(crate) fn begin(paths: &Paths, request: SessionRequest) -> Result<Name> {
    crate::host::require_root()?;
    recovery::recover(paths);
    let source = config::base(paths, &request.options.base)?;
    let definition = request.options.is_defined.then(|| request.options.base.clone());
    let mut options = request.options;
    if !options.in_memory && !throwaway::takes_layers(&paths.storage()) {
        log::info!("changes are kept in memory: '{}' cannot hold layers", paths.storage().display());
        options.in_memory = true;
    }
    let mut build = request.build;
    if options.in_memory {
        build.memory_size.get_or_insert(memory() / 2);
        if !options.caches.is_empty() {
            log::info!("downloaded packages are not added to the cache: changes are kept in memory");
        }
    }
    let name = match request.name {
        Some(name) if request.is_of_user => unused_name(paths, name)?,
        Some(name) => name,
        None => random_name(paths, &config::stem(definition.as_deref(), &source))?,
    };
    kept_sessions::refuse(paths, &name)?;
    let request = SessionRequest { name: Some(name.clone()), options, build, ..request };
    launch_detached(paths, &name, &source, &request, Beginning::New)?;
    Ok(name)
}

/// Refuses the name of a machine or an image, which a session of a user would stand for.
fn unused_name(paths: &Paths, name: Name) -> Result<Name> {
    if !crate::config::exists(paths, &name) {
        return Ok(name);
    }
    Err(Error::new(format!("'{name}' is the name of a machine or an image"))
        .with_hint("choose another name for the session"))
}

/// Recovers a session whose supervisor was killed: its commands have ended, its changes are there. It has the
/// options of its beginning, and its time begins again. `is_of_user` for a user without the rights of root.
///
/// # Errors
/// A running session, one whose changes were in memory, or the reason why it does not run. Its changes stay.
pub(crate) fn recover(paths: &Paths, record: &Record, is_of_user: bool) -> Result<()> {
    crate::host::require_root()?;
    let name = &record.name;
    if record.is_alive() {
        return Err(Error::new(format!("session '{name}' is running"))
            .with_hint(format!("run commands in it with 'coracle build run {name} -- COMMAND'")));
    }
    if !record.keeps_changes() {
        return Err(Error::new(format!("the changes of session '{name}' were in memory, and are lost"))
            .with_hint(format!("remove the rest with 'coracle build end {name}'")));
    }
    let mut request = kept_request(paths, name)?;
    // Its process has ended: that was a reason to end the session, and is none to lose its changes.
    request.with_processes.retain(|pid| Path::new(&format!("/proc/{pid}")).exists());
    request.is_of_user |= is_of_user;
    let source = RootSource::of_path(record.root.clone());
    refuse_changed_base(record, &source)?;
    launch_detached(paths, name, &source, &request, Beginning::Recovered)
}

/// Refuses a session whose base has another layer than at its beginning: its changes are those to the older base.
fn refuse_changed_base(record: &Record, source: &RootSource) -> Result<()> {
    let (RootSource::Stack(stack), Some(build)) = (source, &record.build) else { return Ok(()) };
    if commit::inodes(stack)? == build.lower {
        return Ok(());
    }
    let (base, name) = (&build.base, &record.name);
    Err(Error::new(format!("the base '{base}' has changed since session '{name}' began"))
        .with_hint(format!("end it with 'coracle build end {name}', and begin another one")))
}

/// Launches a session. Its supervisor runs when the function returns.
fn launch_detached(
    paths: &Paths,
    name: &Name,
    source: &RootSource,
    request: &SessionRequest,
    begins: Beginning,
) -> Result<()> {
    let machine = machine(paths, name, source, request)?;
    let ends = ends(request.lifetime, &request.with_processes)?;
    prepare_process(RunMode::Run, &machine, None)?;
    detached::detach(paths, || {
        let mut running = launch(paths, &machine, begins)?;
        ends.into_iter().for_each(|end| running.fds.insert(FdName::Until, end));
        if begins == Beginning::New {
            keep_request(paths, name, request);
        }
        complete(paths, &machine, &running);
        Ok(running)
    })
}

/// The next boot of a session whose guest has requested a reboot: its changes stay. Returns only on failure.
///
/// # Errors
/// The reason why it does not run. The session is dead then.
pub fn reboot() -> Result<()> {
    let kept =
        handover::receive()?.map(Carried::from_running).ok_or_else(|| Error::usage("nothing to reboot"))?;
    let (paths, record) = (Paths::below(&kept.state.paths_root), kept.state.record.clone());
    let launch = || -> Result<Box<Running>> {
        let request = kept_request(&paths, &record.name)?;
        let source = RootSource::of_path(record.root.clone());
        refuse_changed_base(&record, &source)?;
        let machine = machine(&paths, &record.name, &source, &request)?;
        let arguments = kept.state.arguments.clone();
        let request = StartRequest::new(&paths, &machine, RangeRetention::WhileRunning, arguments);
        let running = start(request, Place::in_foreground, Some(kept))?;
        complete(&paths, &machine, &running);
        Ok(running)
    };
    let running = launch().inspect_err(|_| cleanup::undo(&paths, &record))?;
    Err(running.execute(&[SUPERVISE.into(), DETACHED.into()]))
}

/// Returns the kept options of a session.
fn kept_request(paths: &Paths, name: &Name) -> Result<SessionRequest> {
    let reading = || format!("cannot read the options of session '{name}'");
    let text = std::fs::read(paths.session_request(name)).context(reading)?;
    serde_json::from_slice(&text).map_err(|error| Error::from(std::io::Error::other(error))).context(reading)
}

/// Returns the machine of a session.
fn machine(paths: &Paths, name: &Name, source: &RootSource, request: &SessionRequest) -> Result<Machine> {
    let options = &request.options;
    let definition = if options.is_defined { config::definition(paths, &options.base)? } else { None };
    if options.is_defined && definition.is_none() {
        return Err(Error::new(format!(
            "the definition '{}' of session '{name}' does not exist",
            options.base
        ))
        .with_hint(format!("create it again, or remove the session with 'coracle build end {name}'")));
    }
    let resolved = config::session(paths, name, source, options, definition.as_ref())?;
    warn(&resolved);
    let personality = personality(&resolved.machine)?;
    let machine = resolved.machine.into_session(request.build.clone(), personality).map_err(|errors| {
        errors.into_iter().next().unwrap_or_else(|| Error::new("the session is not possible"))
    })?;
    if request.is_of_user {
        refuse_openings(&machine, request)?;
    }
    Ok(machine)
}

/// Refuses a session of a user that has something of the host, by its definition or by the options of root.
fn refuse_openings(machine: &Machine, request: &SessionRequest) -> Result<()> {
    let build = &request.build;
    let keys = [
        ("build.results", !build.results.is_empty()),
        ("build.caches", !build.caches.is_empty()),
        ("build.expose", build.is_exposed),
        ("mount", !request.options.binds.is_empty()),
    ];
    let key = keys.into_iter().find_map(|(key, is_set)| is_set.then_some(key));
    let Some(key) = key.or_else(|| machine.openings().next().map(|opening| opening.key)) else {
        return Ok(());
    };
    let base = &request.options.base;
    Err(Error::new(format!("a session on '{base}' must be run as root: it has '{key}'"))
        .with_hint("run it with sudo(8), or name a base without this setting"))
}

/// Keeps the options of a session for its recovery, which is not possible without them.
fn keep_request(paths: &Paths, name: &Name, request: &SessionRequest) {
    let path = paths.session_request(name);
    let written = serde_json::to_vec(request).map_err(std::io::Error::other);
    let written = written.and_then(|text| std::fs::write(&path, text));
    written.unwrap_or_else(|error| log::warn!("cannot write '{}': {error}, ignoring", path.display()));
}

/// Creates the files of a session that runs.
fn complete(paths: &Paths, machine: &Machine, running: &Running) {
    let variables = &machine.command.environment;
    if !variables.is_empty() {
        let kept = keep_environment(paths, &machine.name, variables);
        kept.unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    }
    let record = &running.state.record;
    if machine.root.is_synced && record.throwaway.is_some() {
        keep_over_reboots(paths, record).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    }
}

/// Keeps a session for its recovery after a reboot of the host. Process ids are those of other processes then.
fn keep_over_reboots(paths: &Paths, record: &Record) -> Result<()> {
    let request = SessionRequest { with_processes: Vec::new(), ..kept_request(paths, &record.name)? };
    let keeping = || format!("cannot keep the options of session '{}'", record.name);
    let request = serde_json::to_value(request).map_err(std::io::Error::other).context(keeping)?;
    kept_sessions::keep(paths, record, request)
}

/// Returns descriptors that are readable when the session has to end.
///
/// # Errors
/// A process that does not exist.
fn ends(lifetime: Option<Duration>, processes: &[u32]) -> Result<Vec<OwnedFd>> {
    let mut ends = Vec::new();
    for pid in processes {
        let missing = || Error::new(format!("process {pid} does not exist"));
        let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw).ok_or_else(missing)?;
        ends.push(rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| missing())?);
    }
    if let Some(lifetime) = lifetime {
        let doing = || "cannot create the timer of the session";
        // A suspended host counts too.
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC).context(doing)?;
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Zero would disarm it.
        let it_value = Timespec::try_from(lifetime.max(Duration::from_nanos(1)))
            .unwrap_or(Timespec { tv_sec: i64::MAX, ..zero });
        let at = Itimerspec { it_interval: zero, it_value };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &at).context(doing)?;
        ends.push(timer);
    }
    Ok(ends)
}

/// Launches the machine of a session, in its detached process.
fn launch(paths: &Paths, machine: &Machine, begins: Beginning) -> Result<Box<Running>> {
    let signals = interrupt::block()?;
    let arguments = [SUPERVISE, DETACHED, REBOOT].map(Into::into).into();
    let request = StartRequest { paths, machine, keep: RangeRetention::WhileRunning, arguments, begins };
    // No commit changes the layers while they are attached.
    let is_stack = matches!(machine.root.source, RootSource::Stack(_));
    let store = is_stack.then(|| Store::of(paths).lock(LockMode::Shared)).transpose()?;
    let running = start(request, Place::in_foreground, None);
    store.into_iter().for_each(lock::release);
    let running = running?;
    signals.keep();
    let record = &running.state.record;
    if running.state.is_boot {
        // An init has cgroups of its own.
        return Ok(running);
    }
    if let Some(payload) = record.payload_cgroup() {
        // Commands get cgroups beside that of PID 1.
        let separated = cgroup_leaf::separate(&payload, record.leader.unwrap_or_default());
        separated.unwrap_or_else(|error| log::debug!("{error}: commands are not measured"));
    } else {
        log::info!("processes that commands leave stay until the end: the session has no cgroup of its own");
    }
    Ok(running)
}

/// Returns the name of a new session: the base and six random digits of base 32.
fn random_name(paths: &Paths, stem: &str) -> Result<Name> {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    loop {
        let mut random = [0u8; 6];
        getrandom(&mut random, GetRandomFlags::empty()).context(|| "cannot get random numbers")?;
        let digit = |byte: u8| DIGITS.get(usize::from(byte % 32)).copied().unwrap_or(b'a');
        let digits: String = random.into_iter().map(|byte| char::from(digit(byte))).collect();
        let name = Name::new(&format!("{stem}-{digits}"))?;
        if !Record::is_written(paths, &name) {
            return Ok(name);
        }
    }
}

/// Returns the execution domain of a base: that of 32 bit for programs of the 32-bit variant of the processor.
fn personality(machine: &Machine) -> Result<Option<Personality>> {
    let tree = root::open(machine)?.tree;
    let architecture = tree.and_then(|tree| tree.architecture(Path::new("/bin/sh")));
    let is_variant = match std::env::consts::ARCH {
        "x86_64" => architecture == Some(Architecture::Named("x86")),
        "aarch64" => architecture == Some(Architecture::Named("arm")),
        _ => false,
    };
    Ok(is_variant.then_some(Personality::Linux32))
}
