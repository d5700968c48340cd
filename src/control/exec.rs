//! `exec` and `shell`: runs a command in a running machine. The command enters by the pidfd of PID 1 with at
//! most the capabilities of PID 1, and needs neither a bus nor a shell in the guest. Returns the exit status
//! of the command.

mod apart;
mod entry;
pub(super) mod forward;
mod stdio;
mod time_limit;
mod user_lookup;

pub(crate) use apart::Apart;

use super::disconnect::DisconnectKey;
use super::{defined, freezer, require_root, running, signal};
use crate::error::{Error, Kind, Result};
use crate::host::lsm;
use crate::host::probe;
use crate::host::rlimits;
use crate::machine::init::{Init, PayloadKind};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::plan::exec::Exec;
use crate::plan::filter::Policy;
use crate::plan::step::ResourceLimit;
use crate::state::build;
use crate::state::record::{Phase, Record};
use crate::sys::process::{self, Child};
use entry::{Entry, FoundUser};
use forward::{ForwardEnd, Forwarder};
use rustix::fd::OwnedFd;
use rustix::process::Resource;
use std::ffi::OsString;
use std::path::PathBuf;
use stdio::RedirectedStdio;
pub(super) use time_limit::TIMEOUT_STATUS;
use time_limit::TimeLimit;

/// Whether the command gets a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TerminalMode {
    /// If standard input and standard output are terminals.
    Auto,
    /// Always.
    Yes,
    /// Never: the command gets the standard streams.
    No,
}

/// A request to run a command in a machine.
#[derive(Debug, Clone)]
pub(crate) struct ExecRequest<'a> {
    /// The machine.
    pub(crate) name: &'a Name,
    /// The program and its arguments; the login shell if empty.
    pub(crate) argv: Vec<OsString>,
    /// User, and after a colon a group, by name or number; root by default.
    pub(crate) user: Option<&'a str>,
    /// The working directory inside.
    pub(crate) directory: Option<PathBuf>,
    /// Environment variables.
    pub(crate) environment: Vec<(String, String)>,
    /// Allocation of a terminal.
    pub(crate) terminal: TerminalMode,
    /// Whether to wait until the guest reports that it is ready.
    pub(crate) wait_ready: bool,
    /// Whether `^]` three times within a second disconnects from a terminal.
    pub(crate) disconnects: bool,
    /// Whether that is announced.
    pub(crate) announces: bool,
    /// The differences from a command of the machine itself.
    pub(crate) apart: Apart<'a>,
}

/// Runs a command in a machine and waits until it exits.
///
/// # Errors
/// The reason why the command was not executed, of kind [`Kind::Launch`], or of a kind of its own for a
/// command that is missing or not executable.
pub(crate) fn exec(paths: &Paths, request: &ExecRequest<'_>) -> Result<u8> {
    let of_launch = |error: Error| error.with_kind_of_failure(Kind::Launch);
    let forward = prepare_and_enter(paths, request).map_err(of_launch)?;
    let name = request.name;
    if request.announces && has_terminal(request) && request.disconnects {
        log::info!("connected to machine '{name}'; ^] three times within a second disconnects");
    }
    match forward.run()? {
        ForwardEnd::Exited(status) => Ok(status),
        ForwardEnd::Disconnected => {
            log::info!("disconnected from machine '{name}'");
            Ok(0)
        }
    }
}

/// Returns whether a command is on a terminal and typed input is forwarded to it.
fn has_terminal(request: &ExecRequest<'_>) -> bool {
    rustix::termios::isatty(rustix::stdio::stdin()) && request.terminal != TerminalMode::No
}

/// Prepares and clones the command; returns once it is executed.
fn prepare_and_enter(paths: &Paths, request: &ExecRequest<'_>) -> Result<Forwarder> {
    require_root()?;
    let record = running(paths, request.name)?;
    let record = if request.wait_ready { ready(paths, record, request.name)? } else { record };
    freezer::refuse_frozen(paths, &record)?;
    if record.id_base.is_none_or(|base| base == 0) {
        // Root inside is root of the host, and could write to the executable of this process.
        process::run_from_read_only()?;
    }
    let leader = signal::leader(&record)?;
    let exec = resolve(paths, request, &record)?;
    if !exec.user_namespace {
        // Root inside may read the memory of this process.
        process::forget_environment();
    }
    // Blocked before the child exists: no signal is lost. The child resets its own mask.
    let signals = forward::signals()?;
    let user = request.user.unwrap_or("root");
    let (found, apart) = (FoundUser::default(), request.apart);
    let entry =
        Entry { exec: &exec, user, found, record: &record, leader: &leader, signals: &signals, apart };
    let entered = match enter(&entry) {
        // Only then: most users are those of passwd(5).
        Err(error) if error.is_unknown_user() => {
            let found = user_lookup::find(&entry, error)?;
            enter(&entry.with_found(found))
        }
        entered => entered,
    };
    let (child, terminal, stdio) = entered?;
    let key =
        (request.disconnects && terminal.is_some() && has_terminal(request)).then(DisconnectKey::default);
    let limit = request.apart.time_limit.map(TimeLimit::new);
    let forwarder = Forwarder::new(child, terminal, stdio.into_flows(), signals, key, limit)?;
    Ok(forwarder.with_group(request.apart.signals_group))
}

/// Enters the machine, with pipes in place of the streams of this process where that is necessary. Returns the
/// command, the host's end of its terminal, and its streams.
fn enter(entry: &Entry<'_>) -> Result<(Child, Option<OwnedFd>, RedirectedStdio)> {
    let on_terminal = entry.exec.on_terminal;
    let mut stdio = match on_terminal {
        true => RedirectedStdio::default(),
        false => RedirectedStdio::redirect(entry.apart.relays_streams)?,
    };
    let entered = entry.enter(&mut stdio);
    stdio.restore()?;
    entered.map(|(child, terminal)| (child, terminal, stdio))
}

/// Waits until the guest reports that it is ready.
fn ready(paths: &Paths, mut record: Record, name: &Name) -> Result<Record> {
    while record.phase != Phase::Running {
        std::thread::sleep(std::time::Duration::from_millis(20));
        record = running(paths, name)?;
    }
    Ok(record)
}

/// Resolves a request for a machine, except for the user.
fn resolve(paths: &Paths, request: &ExecRequest<'_>, record: &Record) -> Result<Exec> {
    let own_end =
        rustix::termios::isatty(rustix::stdio::stdin()) && rustix::termios::isatty(rustix::stdio::stdout());
    let status = probe::OwnStatus::read();
    Ok(Exec {
        argv: request.argv.clone(),
        directory: request.directory.clone(),
        environment: environment(paths, request, record),
        terminal: std::env::var("TERM").unwrap_or_else(|_| "dumb".into()),
        on_terminal: match request.terminal {
            TerminalMode::Auto => own_end,
            wanted => wanted == TerminalMode::Yes,
        },
        policy: Policy {
            capabilities: record.capabilities,
            allow: record.syscalls.allow.clone(),
            deny: record.syscalls.deny.clone(),
            socketcall: record.syscalls.socketcall,
            suppress_sync: record.syscalls.suppress_sync,
            families: record.syscalls.families.clone(),
            // That of a bundle is for its own process.
            profile: None,
        },
        no_new_privileges: record.no_new_privileges,
        ignored_signals: status.ignored_signals,
        is_root: status.is_root,
        label: lsm::of_entering(record.leader.unwrap_or_default()),
        user_namespace: record.id_base.is_some(),
        time_namespace: has_time_namespace(record),
        limits: limits(record)?,
        cpu_affinity: record.cpu_affinity.clone(),
        personality: record.personality,
        is_offline: request.apart.is_offline,
    })
}

/// Returns the variables of the definition and, with precedence, of the request. A machine in the foreground
/// may have no definition.
fn environment(paths: &Paths, request: &ExecRequest<'_>, record: &Record) -> Vec<(String, String)> {
    let of_machine = || {
        let machine = defined(paths, request.name).ok();
        machine.map(|machine| machine.command.environment.clone()).unwrap_or_default()
    };
    let mut variables = match (record.has_environment, &record.build) {
        (false, _) => Vec::new(),
        (true, None) => of_machine(),
        (true, Some(_)) => build::environment(paths, request.name),
    };
    variables.retain(|(name, _)| request.environment.iter().all(|(given, _)| given != name));
    variables.extend(request.environment.iter().cloned());
    variables
}

/// Returns whether PID 1 is in another time namespace than this process (time_namespaces(7)).
fn has_time_namespace(record: &Record) -> bool {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/time")).ok();
    namespace(&record.leader.unwrap_or_default().to_string()) != namespace("self")
}

/// Returns the resource limits of PID 1.
fn limits(record: &Record) -> Result<Vec<ResourceLimit>> {
    /// The soft limit of open files that systemd sets for its services: select(2) supports 1024 descriptors.
    const SELECTABLE: u64 = 1024;
    let mut limits = rlimits::of_process(record.leader.unwrap_or_default())?;
    // systemd raises its own limit to the hard limit, and resets it for its services.
    let is_systemd = record.init == Some(PayloadKind::Init(Init::Systemd));
    for limit in limits.iter_mut().filter(|limit| is_systemd && limit.resource == Resource::Nofile) {
        limit.soft = limit.soft.into_iter().chain([SELECTABLE]).min();
    }
    Ok(limits)
}
