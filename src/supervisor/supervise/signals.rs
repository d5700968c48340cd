//! The signals of the event loop. Called by `supervise`.

use crate::error::{Context, Result};
use crate::sys::process::SignalSet;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that the loop handles.
const HANDLED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGURG,
    Signal::SIGWINCH,
    Signal::SIGPIPE,
];

/// Those, and signals that would end this process, and are nobody's request to it: they are meant for the
/// payload if they are sent to all processes of a unit, for example by `machinectl kill`.
const BLOCKED: SignalSet = SignalSet::of(&[
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGURG,
    libc::SIGWINCH,
    libc::SIGPIPE,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
])
.with_real_time();

/// Blocks the signals that the loop handles, until it reads them, and those without a use. The mask outlives
/// an exec.
pub(super) fn block() {
    BLOCKED.block();
}

/// Blocks the signals that the loop handles and returns a descriptor that reads them.
pub(super) fn take() -> Result<SignalFd> {
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    block();
    SignalFd::with_flags(&HANDLED.into_iter().collect(), flags).context(|| "cannot create a signalfd")
}
