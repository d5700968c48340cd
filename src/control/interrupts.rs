//! The signals that interrupt a copy: they are blocked meanwhile, so that the copy is removed before the
//! process ends. Called by the verbs that copy files.

use crate::error::{Context, Result};
use crate::sys::process;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;

/// The blocked signals SIGINT, SIGTERM and SIGHUP of this thread. They have their former effect again when
/// it is dropped.
pub(super) struct Interrupts {
    signals: SignalFd,
    former: SigSet,
}

impl Interrupts {
    /// Blocks the signals.
    ///
    /// # Errors
    /// Any error of sigprocmask(2) and signalfd(2).
    pub(super) fn block() -> Result<Self> {
        let mask: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        let former = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK).context(|| "cannot block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).context(|| "cannot receive signals")?;
        Ok(Self { signals, former })
    }

    /// Returns whether one of the signals has arrived since the last call.
    pub(super) fn have_arrived(&self) -> bool {
        let signal = self.signals.read_signal().ok().flatten();
        signal.is_some_and(|signal| !process::is_ignored_hangup(signal.ssi_signo))
    }

    /// Waits until a stream is ready.
    ///
    /// # Errors
    /// One of the signals, or any error of poll(2).
    pub(super) fn wait(&self, stream: BorrowedFd<'_>, events: PollFlags) -> std::io::Result<()> {
        loop {
            let mut watched = [
                PollFd::from_borrowed_fd(stream, events),
                PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN),
            ];
            match poll(&mut watched, None) {
                Err(Errno::INTR) => continue,
                ready => drop(ready?),
            }
            let [stream, signals] = watched.map(|one| !one.revents().is_empty());
            if signals && self.have_arrived() {
                return Err(std::io::Error::other("interrupted"));
            }
            if stream {
                return Ok(());
            }
        }
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // An error would be one of the argument, which the kernel has returned.
        let _ = self.former.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_noticed_once_while_they_are_blocked() {
        let interrupts = Interrupts::block().unwrap();
        assert!(!interrupts.have_arrived());
        nix::sys::signal::raise(Signal::SIGINT).unwrap();
        assert_eq!([interrupts.have_arrived(), interrupts.have_arrived()], [true, false]);
        drop(interrupts);
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGINT));
    }
}
