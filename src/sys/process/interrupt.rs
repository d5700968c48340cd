//! Signals that terminate a process, kept pending while it creates what must be undone. Used by `run` for a
//! start in the foreground.

use crate::error::{Context, Error, Result};
use nix::sys::signal::{SigHandler, SigSet, Signal};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

/// The signals of users and of service managers that terminate a process.
const SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Further signals that are kept pending: that of the limit of file sizes, so that a write fails instead, and
/// that of a requested reboot.
const OTHERS: [Signal; 2] = [Signal::SIGXFSZ, Signal::SIGUSR1];

/// Whether the signals are pending because of [`block`].
static BLOCKED: AtomicBool = AtomicBool::new(false);

/// Blocked signals. Dropping it unblocks them: a pending one then ends the process in the usual way, so that
/// its parent sees the signal.
#[derive(Debug)]
pub(crate) struct Blocked {
    before: SigSet,
}

/// Blocks SIGTERM, SIGINT and SIGHUP, which interrupt a start, SIGXFSZ and SIGUSR1. Cloned children inherit
/// the mask; an exec keeps it.
///
/// # Errors
/// Any error of sigprocmask(2).
pub(crate) fn block() -> Result<Blocked> {
    let mask: SigSet = SIGNALS.into_iter().chain(OTHERS).collect();
    let before =
        mask.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).context(|| "cannot block signals")?;
    BLOCKED.store(true, Ordering::Relaxed);
    Ok(Blocked { before })
}

impl Blocked {
    /// Leaves the signals blocked, for a reader of its own.
    pub(crate) fn keep(self) {
        BLOCKED.store(false, Ordering::Relaxed);
        std::mem::forget(self);
    }

    /// Unblocks the signals, and discards those that have interrupted the start: it has failed in order.
    pub(crate) fn discard(self) {
        let pending = pending();
        for signal in SIGNALS.into_iter().filter(|signal| pending.contains(*signal)) {
            let _ = [signal].into_iter().collect::<SigSet>().wait();
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        BLOCKED.store(false, Ordering::Relaxed);
        let _ = self.before.thread_set_mask();
    }
}

/// Checks for a pending signal, if [`block`] is in effect.
///
/// # Errors
/// A signal is pending.
pub(crate) fn check() -> Result<()> {
    if !BLOCKED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let pending = pending();
    let is_ignored = |signal: Signal| super::is_ignored_hangup(signal as u32);
    match SIGNALS.into_iter().find(|signal| pending.contains(*signal) && !is_ignored(*signal)) {
        Some(signal) => {
            // Once unblocked it ends this process, also if a shell has let a background job ignore SIGINT.
            // SAFETY: no handler is replaced that other code depends on: the process ends.
            let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
            Err(Error::new(format!("interrupted by {signal}")))
        }
        None => Ok(()),
    }
}

/// Returns the pending signals (sigpending(2)).
fn pending() -> SigSet {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is large enough and lives across the call; all zero is a valid, empty set.
    unsafe {
        libc::sigpending(set.as_mut_ptr());
        SigSet::from_sigset_t_unchecked(set.assume_init())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_reported_until_it_is_unblocked() {
        // The thread of the test only.
        assert!(check().is_ok());
        let blocked = block().unwrap();
        assert!(check().is_ok());
        // SAFETY: sends a blocked signal to this thread.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGTERM) };
        assert_eq!(check().unwrap_err().to_string(), "interrupted by SIGTERM");
        let mask: SigSet = [Signal::SIGTERM].into_iter().collect();
        assert_eq!(mask.wait().unwrap(), Signal::SIGTERM);
        assert!(check().is_ok());
        drop(blocked);
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM));
    }
}
