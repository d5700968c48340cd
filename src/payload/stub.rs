//! The stub PID 1 of `--as-pid2`: reaps processes, and exits with the status of PID 2. Called by
//! `init_process`.

use crate::error::{Context, Result};
use crate::sys::process::{self, Side};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::fd::AsFd;

/// Forks: the child returns and becomes the payload, the parent stays as PID 1 until it ends.
///
/// # Errors
/// Any error of clone3(2).
pub(crate) fn fork() -> Result<()> {
    match process::clone(0, None)? {
        Side::Child => {
            rustix::process::setsid().context(|| "cannot create a session")?;
            process::die_with_parent();
            Ok(())
        }
        Side::Parent(child) => {
            // The channel too: its end notifies the supervisor of the payload's exec.
            crate::sys::descriptor::close_from(3, child.pidfd.as_fd());
            let _ = rustix::thread::set_name(c"(coracle-stub)");
            watch(child.pid.as_raw_nonzero().get(), child.pidfd.as_fd())
        }
    }
}

/// The signals that request a stop of a stub init (systemd-nspawn(1), `--as-pid2`).
const STOPS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

/// Waits for signals: reaps children, and passes a stop request on as SIGTERM.
fn watch(payload: i32, pidfd: rustix::fd::BorrowedFd<'_>) -> ! {
    let mut signals = SigSet::empty();
    STOPS.into_iter().chain([Signal::SIGCHLD]).for_each(|signal| signals.add(signal));
    let _ = signals.thread_block();
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            match status {
                WaitStatus::StillAlive => break,
                WaitStatus::Exited(pid, code) if pid.as_raw() == payload => process::exit_now(code),
                WaitStatus::Signaled(pid, signal, _) if pid.as_raw() == payload => {
                    process::exit_now(128 + signal as i32)
                }
                _ => {}
            }
        }
        if signals.wait().is_ok_and(|signal| STOPS.contains(&signal)) {
            let _ = process::send_signal(pidfd, libc::SIGTERM);
        }
    }
}
