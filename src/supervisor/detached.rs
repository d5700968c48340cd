//! Launches a machine in a process that is detached from its caller, which becomes the supervisor. The caller
//! learns of the end of the launch over a pipe. Called by `run` for build sessions.

use super::cleanup;
use super::handover::{FdName, Running};
use crate::claim;
use crate::error::{Context, Error, Result};
use crate::paths::Paths;
use crate::sys::descriptor;
use crate::sys::process::{self, Side, SignalSet};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};

/// The argument of a supervisor without a standard error: it logs to the journal.
pub const DETACHED: &str = "detached";

/// The argument after it of a supervisor whose guest reboots.
pub const REBOOT: &str = "reboot";

/// The end of a launch, for the caller.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// The machine is running.
    Running,
    /// The launch has failed and is undone.
    Failed { text: String, hint: Option<String> },
}

/// Launches a machine in a detached process. The machine is running when it returns.
///
/// If the caller ends before, the detached process undoes the launch.
///
/// # Errors
/// The error of the launch, or a detached process that was killed: the next start removes what it has left.
pub(crate) fn detach(paths: &Paths, launch: impl FnOnce() -> Result<Box<Running>>) -> Result<()> {
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (ours, theirs) = pipe.context(|| "cannot create a pipe")?;
    match process::clone(0, None)? {
        Side::Child => {
            drop(ours);
            run(paths, launch, theirs)
        }
        Side::Parent(_) => {
            drop(theirs);
            receive(ours)
        }
    }
}

fn receive(pipe: OwnedFd) -> Result<()> {
    let mut bytes = Vec::new();
    File::from(pipe).read_to_end(&mut bytes).context(|| "cannot receive the result of the launch")?;
    match serde_json::from_slice(&bytes) {
        Ok(Report::Running) => Ok(()),
        Ok(Report::Failed { text, hint }) => {
            let error = Error::new(text);
            Err(hint.into_iter().fold(error, Error::with_hint))
        }
        Err(_) => Err(Error::new("the supervisor was killed during the launch")
            .with_hint("try again: the next start removes what it has left")),
    }
}

/// Launches, reports, and becomes the supervisor.
fn run(paths: &Paths, launch: impl FnOnce() -> Result<Box<Running>>, pipe: OwnedFd) -> ! {
    // A caller that has ended is an error of the report, not the end of this process.
    SignalSet::of(&[libc::SIGPIPE]).block();
    let mut pipe = File::from(pipe);
    let mut report = |report: &Report| {
        let bytes = serde_json::to_vec(report).unwrap_or_default();
        pipe.write_all(&bytes)
    };
    let mut running = match leave_caller().and_then(|()| launch()) {
        Ok(running) => running,
        Err(error) => {
            let hint = error.hint().map(str::to_owned);
            let _ = report(&Report::Failed { text: error.to_string(), hint });
            process::exit_now(1)
        }
    };
    if report(&Report::Running).is_err() {
        abandon(paths, running);
        process::exit_now(1)
    }
    // From now on the caller knows the name, and can recover the session if this process is killed.
    let record = &mut running.state.record;
    if let Some(build) = record.build.as_mut().filter(|_| record.throwaway.is_some()) {
        build.is_begun = true;
        record.write(paths).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    }
    // The pipe of a caller that reads to the end of standard error.
    let null = null().and_then(|null| rustix::stdio::dup2_stderr(&null).context(|| "cannot leave it"));
    null.unwrap_or_else(|error| log::debug!("{error}, ignoring"));
    drop(pipe);
    // It is the caller's, the sockets of its service manager included.
    process::forget_environment();
    let error = running.execute(&["supervise".into(), DETACHED.into()]);
    log::error!("{error}");
    abandon(paths, running);
    process::exit_now(1)
}

/// Leaves the session, the terminal, the working directory and the descriptors of the caller: its locks, and
/// pipes that others read to the end. Those that are handed over are kept for the exec later. Warnings of the
/// launch still reach its standard error.
fn leave_caller() -> Result<()> {
    rustix::process::setsid().context(|| "cannot create a session")?;
    rustix::process::chdir("/").context(|| "cannot change to '/'")?;
    descriptor::close_on_exec_from(3).context(|| "cannot close descriptors")?;
    let null = null()?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .context(|| "cannot set a standard stream")
}

fn null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open '/dev/null'")
}

/// Kills a machine, and undoes its launch. The changes of a recovered session stay.
fn abandon(paths: &Paths, mut running: Box<Running>) {
    if let Some(leader) = running.fds.take(FdName::Leader) {
        let _ = process::send_signal(leader.as_fd(), libc::SIGKILL);
        let _ = process::wait(leader.as_fd());
    }
    let mut locks = running.fds.take_locks();
    claim::abandon(paths, cleanup::undo, &running.state.record, &mut locks);
}
