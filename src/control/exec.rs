//! exec and shell: a command in a running machine. It enters by PID 1's pidfd with no more rights
//! than PID 1 has, and needs neither bus nor shell in the guest. Returns the command's exit status.

use super::relay::{self, Relay};
use super::{running, signal};
use crate::error::{Context, Error, Kind, Result};
use crate::host::probe::Tree;
use crate::host::state::{Phase, Record};
use crate::link::{self, FromPayload, ParentEnd, Sync};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::plan::exec::{Exec, steps};
use crate::plan::filter::Policy;
use crate::sys::process::{self, Child, Side};
use nix::sched::{CloneFlags, setns};
use rustix::fd::{AsFd, OwnedFd};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Whether the command gets a terminal of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// Where our standard input and output are one.
    Auto,
    /// Always.
    Yes,
    /// Never: it gets our streams.
    No,
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// The machine.
    pub name: &'a Name,
    /// The program and its arguments; empty: the login shell.
    pub argv: Vec<OsString>,
    /// User, and after a colon a group, by name or number; root where not given.
    pub user: Option<&'a str>,
    /// The working directory inside.
    pub directory: Option<PathBuf>,
    /// Variables.
    pub environment: Vec<(String, String)>,
    /// The terminal.
    pub terminal: Terminal,
    /// Whether to wait until the guest says that it is up.
    pub wait_ready: bool,
}

/// Runs a command in a machine and waits for its end.
///
/// # Errors
/// Why it was not executed, of kind [`Kind::Launch`].
pub fn exec(paths: &Paths, ask: &Ask<'_>) -> Result<u8> {
    let launched = |error: Error| error.kind_of(Kind::Launch);
    let record = running(paths, ask.name).map_err(launched)?;
    let record = if ask.wait_ready { ready(paths, record, ask.name).map_err(launched)? } else { record };
    let leader = signal::leader(&record).map_err(launched)?;
    let meant = meant(ask, &record).map_err(launched)?;
    // Blocked before the child exists, so that none is lost; the child resets its own.
    let signals = relay::signals().map_err(launched)?;
    let (child, terminal) = enter(&meant, &record, leader).map_err(launched)?;
    Relay::new(child, terminal, signals)?.run()
}

/// Waits until the guest says that it is up.
fn ready(paths: &Paths, mut record: Record, name: &Name) -> Result<Record> {
    while record.phase != Phase::Running {
        std::thread::sleep(std::time::Duration::from_millis(20));
        record = running(paths, name)?;
    }
    Ok(record)
}

/// Looks up what the command needs of the guest, without executing anything of it.
fn meant(ask: &Ask<'_>, record: &Record) -> Result<Exec> {
    let root = format!("/proc/{}/root", record.leader.unwrap_or_default());
    let tree = Tree::open(Path::new(&root))?;
    let (user, group) = match ask.user.unwrap_or("root").split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (ask.user.unwrap_or("root"), None),
    };
    let mut user = tree.user(user).map_err(|error| error.context(format!("machine '{}'", ask.name)))?;
    if let Some(group) = group {
        user.gid = tree.group(group)?;
    }
    let ours =
        rustix::termios::isatty(rustix::stdio::stdin()) && rustix::termios::isatty(rustix::stdio::stdout());
    Ok(Exec {
        argv: ask.argv.clone(),
        user,
        directory: ask.directory.clone(),
        environment: ask.environment.clone(),
        terminal: std::env::var("TERM").unwrap_or_else(|_| "dumb".into()),
        on_terminal: match ask.terminal {
            Terminal::Auto => ours,
            wanted => wanted == Terminal::Yes,
        },
        policy: Policy {
            capabilities: record.capabilities,
            allow: record.syscalls.allow.clone(),
            deny: record.syscalls.deny.clone(),
        },
        no_new_privileges: record.no_new_privileges,
        user_namespace: record.id_base.is_some(),
    })
}

/// Clones the command into the machine's pid namespace and PID 1's cgroup; returns when it was
/// executed, with our side of its terminal.
fn enter(exec: &Exec, record: &Record, leader: OwnedFd) -> Result<(Child, Option<OwnedFd>)> {
    let steps = steps(exec)?;
    let (ours, theirs) = link::pair()?;
    let cgroup = record.cgroup.as_ref().and_then(|_| leader_cgroup(record));
    take_oom_score(record);
    setns(&leader, CloneFlags::CLONE_NEWPID)
        .map_err(std::io::Error::from)
        .context(|| "cannot enter the machine's pid namespace")?;
    let side = process::clone(0, cgroup.as_ref().map(AsFd::as_fd))?;
    match side {
        Side::Child => {
            drop(ours);
            crate::payload::lead(&steps, &theirs, Some(leader))
        }
        Side::Parent(child) => {
            drop(theirs);
            let met = meet(&ours, &child);
            if met.is_err() {
                let _ = process::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
                let _ = process::wait(child.pidfd.as_fd());
            }
            Ok((child, met?))
        }
    }
}

/// Hears the child until it has executed the command.
fn meet(link: &ParentEnd, child: &Child) -> Result<Option<OwnedFd>> {
    let mut terminal = None;
    let mut is_ready = false;
    loop {
        match link.receive()? {
            Some((FromPayload::Terminal, descriptor)) => terminal = descriptor,
            Some((FromPayload::Reached(Sync::Ready), _)) => {
                is_ready = true;
                link.release(Sync::Ready)?;
            }
            Some((FromPayload::Failed(failure), _)) => return Err(failure.into()),
            Some(_) => return Err(Error::new("the child said something strange")),
            None if is_ready => return Ok(terminal),
            None => {
                let _ = process::wait(child.pidfd.as_fd());
                return Err(Error::new("the machine ended while it was entered"));
            }
        }
    }
}

/// The cgroup PID 1 is in, where the command counts against the same limits.
fn leader_cgroup(record: &Record) -> Option<OwnedFd> {
    let directory = crate::host::cgroup::of_process(record.leader?)?;
    crate::sys::mount::open_directory(&directory).ok()
}

/// Takes PID 1's oom score adjustment: what enters shall be no harder to kill than the rest.
fn take_oom_score(record: &Record) {
    let path = |pid: &str| format!("/proc/{pid}/oom_score_adj");
    let theirs = std::fs::read_to_string(path(&record.leader.unwrap_or_default().to_string()));
    if let Err(error) = theirs.and_then(|score| std::fs::write(path("self"), score)) {
        log::debug!("cannot take the machine's oom score: {error}, ignoring");
    }
}
