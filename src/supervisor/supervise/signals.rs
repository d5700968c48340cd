//! The signals of the event loop. Called by `supervise`.

use crate::error::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Blocks the signals that the loop handles, until it reads them. The mask outlives an exec.
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
    mask.thread_block().context(|| "cannot block signals")?;
    Ok(mask)
}

/// Blocks the signals that the loop handles and returns a descriptor that reads them.
pub(super) fn take() -> Result<SignalFd> {
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&block()?, flags).context(|| "cannot create a signalfd")
}
