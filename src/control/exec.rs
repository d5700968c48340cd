//! `exec` and `shell`: runs a command in a running machine. The command enters by the pidfd of PID 1 with at
//! most the capabilities of PID 1, and needs neither a bus nor a shell in the guest. Returns the exit status
//! of the command.

pub(super) mod forward;
mod stdio;

use super::{freezer, guest_child, running, signal};
use crate::channel::{self, FromPayload, ParentEnd, SyncPoint};
use crate::error::{Context, Error, Kind, Result};
use crate::host::lsm;
use crate::host::probe;
use crate::host::rlimits;
use crate::machine::init::{Init, PayloadKind};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::plan::User;
use crate::plan::exec::{Exec, steps};
use crate::plan::filter::Policy;
use crate::plan::step::ResourceLimit;
use crate::state::record::{Phase, Record};
use crate::sys::process::{self, Child, Side};
use crate::sys::pseudo_file;
use forward::Forwarder;
use nix::sched::{CloneFlags, setns};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::Resource;
use std::ffi::OsString;
use std::path::PathBuf;
use stdio::RedirectedStdio;

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
}

/// Runs a command in a machine and waits until it exits.
///
/// # Errors
/// The reason why the command was not executed, of kind [`Kind::Launch`].
pub(crate) fn exec(paths: &Paths, request: &ExecRequest<'_>) -> Result<u8> {
    prepare_and_enter(paths, request).map_err(|error| error.with_kind(Kind::Launch))?.run()
}

/// Prepares and clones the command; returns once it is executed.
fn prepare_and_enter(paths: &Paths, request: &ExecRequest<'_>) -> Result<Forwarder> {
    let record = running(paths, request.name)?;
    let record = if request.wait_ready { ready(paths, record, request.name)? } else { record };
    freezer::refuse_frozen(&record)?;
    if record.id_base.is_none_or(|base| base == 0) {
        // Root inside is root of the host, and could write to the executable of this process.
        process::run_from_read_only()?;
    }
    let leader = signal::leader(&record)?;
    let exec = resolve(request, &record, &leader)?;
    if !exec.user_namespace {
        // Root inside may read the memory of this process.
        process::forget_environment();
    }
    // Blocked before the child exists: no signal is lost. The child resets its own mask.
    let signals = forward::signals()?;
    let mut stdio = if exec.on_terminal { RedirectedStdio::default() } else { RedirectedStdio::redirect()? };
    let entered = enter(&exec, &record, leader, &signals, &mut stdio);
    stdio.restore()?;
    let (child, terminal) = entered?;
    Forwarder::new(child, terminal, stdio.into_flows(), signals)
}

/// Waits until the guest reports that it is ready.
fn ready(paths: &Paths, mut record: Record, name: &Name) -> Result<Record> {
    while record.phase != Phase::Running {
        std::thread::sleep(std::time::Duration::from_millis(20));
        record = running(paths, name)?;
    }
    Ok(record)
}

/// Resolves a request with the guest's files, without executing a program of the guest.
fn resolve(request: &ExecRequest<'_>, record: &Record, leader: &OwnedFd) -> Result<Exec> {
    let (user, group) = match request.user.unwrap_or("root").split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (request.user.unwrap_or("root"), None),
    };
    let user = guest_child::read_tree(record, leader, |tree| {
        let user = tree.user(user)?;
        let gid = group.map(|group| tree.group(group)).transpose()?.unwrap_or(user.gid);
        Ok(User { gid, ..user })
    })?;
    let own_end =
        rustix::termios::isatty(rustix::stdio::stdin()) && rustix::termios::isatty(rustix::stdio::stdout());
    Ok(Exec {
        argv: request.argv.clone(),
        user,
        directory: request.directory.clone(),
        environment: request.environment.clone(),
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
        },
        no_new_privileges: record.no_new_privileges,
        ignored_signals: probe::OwnStatus::read().ignored_signals,
        label: lsm::of_entering(record.leader.unwrap_or_default()),
        user_namespace: record.id_base.is_some(),
        time_namespace: has_time_namespace(record),
        limits: limits(record)?,
    })
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

/// Clones the command into the pid namespace of the machine and the cgroup of PID 1. Returns after the
/// execve(2), with the host's end of the terminal.
fn enter(
    exec: &Exec,
    record: &Record,
    leader: OwnedFd,
    signals: &SignalFd,
    stdio: &mut RedirectedStdio,
) -> Result<(Child, Option<OwnedFd>)> {
    let steps = steps(exec)?;
    let (own_end, machine_end) = channel::pair()?;
    let cgroup = leader_cgroup(record)?;
    inherit_oom_score(record);
    if exec.user_namespace {
        setns(&leader, CloneFlags::CLONE_NEWPID).context(|| "cannot enter the machine's pid namespace")?;
    }
    let side = process::clone(0, cgroup.as_ref().map(AsFd::as_fd))?;
    match side {
        Side::Child => {
            drop(own_end);
            let inputs = crate::payload::InitInputs::Joins(leader.as_fd());
            crate::payload::run_init_steps(&steps, &machine_end, inputs)
        }
        Side::Parent(mut child) => {
            drop(machine_end);
            stdio.restore()?;
            let synchronised = synchronise(&own_end, &mut child, signals);
            if synchronised.is_err() {
                let _ = process::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
                let _ = process::wait(child.pidfd.as_fd());
            }
            Ok((child, synchronised?))
        }
    }
}

/// Receives the messages of the child until it has executed the command. A file system of the guest can block
/// the child forever: a signal interrupts the wait.
fn synchronise(link: &ParentEnd, child: &mut Child, signals: &SignalFd) -> Result<Option<OwnedFd>> {
    let mut terminal = None;
    let mut is_ready = false;
    loop {
        if !has_message(link, signals)? {
            return Err(Error::new("interrupted while entering the machine"));
        }
        match link.receive()? {
            Some((FromPayload::Replaced, Some(pidfd))) => {
                process::wait(child.pidfd.as_fd())?;
                child.pidfd = pidfd;
            }
            Some((FromPayload::Terminal, descriptor)) => {
                // Before the command can query the size.
                descriptor.iter().for_each(|machine_end| forward::set_window_size(machine_end.as_fd()));
                terminal = descriptor;
            }
            Some((FromPayload::Reached(SyncPoint::Ready), _)) => {
                is_ready = true;
                link.release(SyncPoint::Ready)?;
            }
            Some((FromPayload::Failed(failure), _)) => return Err(failure.into()),
            Some(_) => return Err(Error::new("received an invalid message from the child process")),
            None if is_ready => return Ok(terminal),
            None => {
                let _ = process::wait(child.pidfd.as_fd());
                return Err(Error::new("the machine ended while it was being entered"));
            }
        }
    }
}

/// Waits for a message of the child. Returns false on a signal that ends the command.
fn has_message(link: &ParentEnd, signals: &SignalFd) -> Result<bool> {
    loop {
        let mut watched = [
            PollFd::from_borrowed_fd(link.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.context(|| "cannot wait for the child")?,
        };
        if !watched[0].revents().is_empty() {
            return Ok(true);
        }
        while let Ok(Some(info)) = signals.read_signal() {
            let ends = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
            if ends.iter().any(|signal| u32::try_from(*signal) == Ok(info.ssi_signo)) {
                return Ok(false);
            }
        }
    }
}

/// Opens the cgroup of PID 1: the command counts against the same limits. `None` if the machine has no cgroup
/// of its own.
fn leader_cgroup(record: &Record) -> Result<Option<OwnedFd>> {
    let payload = record.payload_cgroup();
    let leader = record.leader.unwrap_or_default();
    payload.map(|payload| crate::host::cgroup::open_of_process(leader, &payload)).transpose()
}

/// Copies the OOM score adjustment of PID 1: the out-of-memory killer treats the command as the guest's other
/// processes.
fn inherit_oom_score(record: &Record) {
    let path = |pid: &str| format!("/proc/{pid}/oom_score_adj");
    let machine_end = pseudo_file::read(path(&record.leader.unwrap_or_default().to_string()));
    if let Err(error) = machine_end.and_then(|score| std::fs::write(path("self"), score)) {
        log::debug!("cannot copy the OOM score adjustment of PID 1: {error}, ignoring");
    }
}
