//! The signals of the event loop. Called by `supervise`.

use crate::error::{Context, Result};
use crate::sys::process::SignalSet;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that would end this process, and are nobody's request to it: they are meant for the payload if
/// they are sent to all processes of a unit, for example by `machinectl kill`.
const UNUSED: SignalSet = SignalSet::of(&[
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
pub(super) fn block() -> Result<SigSet> {
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGURG,
        Signal::SIGWINCH,
        Signal::SIGPIPE,
    ] {
        mask.add(signal);
    }
    UNUSED.block();
    mask.thread_block().context(|| "cannot block signals")?;
    Ok(mask)
}

/// Blocks the signals that the loop handles and returns a descriptor that reads them.
pub(super) fn take() -> Result<SignalFd> {
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&block()?, flags).context(|| "cannot create a signalfd")
}
