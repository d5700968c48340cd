//! The tiny PID 1 of `--as-pid2`: reaps, passes the end of PID 2 on as its own.

use crate::error::{Context, Result};
use crate::sys::process::{self, Ended, Side};
use nix::sys::wait::{WaitStatus, waitpid};
use rustix::fd::AsFd;

/// Forks: the child returns and becomes the payload, the parent stays as PID 1 until it ends.
pub fn fork() -> Result<()> {
    match process::clone(0, None)? {
        Side::Child => {
            rustix::process::setsid().context(|| "cannot begin a session")?;
            Ok(())
        }
        Side::Parent(child) => {
            // Nothing of ours may be held open by the stub for as long as the payload runs.
            let _ = rustix::thread::set_name(c"(coracle-stub)");
            let status = loop {
                match waitpid(None, None) {
                    Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == child.pid.as_raw_nonzero().get() => {
                        break code;
                    }
                    Ok(WaitStatus::Signaled(pid, _, _))
                        if pid.as_raw() == child.pid.as_raw_nonzero().get() =>
                    {
                        break 255;
                    }
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(_) => match process::wait(child.pidfd.as_fd()) {
                        Ok(Ended::Exited(code)) => break code,
                        _ => break 255,
                    },
                }
            };
            process::exit_now(status)
        }
    }
}
