//! Sets of signals by number, real-time signals included. The C libraries have numbers of their own for those
//! and refuse the first ones, so the kernel is called.

use std::time::Duration;

/// A set of signals in the kernel's form: bit 0 is signal 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignalSet(u64);

impl SignalSet {
    /// Returns the set of these signals.
    pub(crate) const fn of(signals: &[i32]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < signals.len() {
            bits |= 1 << (signals[at] - 1);
            at += 1;
        }
        Self(bits)
    }

    /// Returns the set with all real-time signals.
    pub(crate) const fn with_real_time(self) -> Self {
        const FIRST: u32 = 34;
        Self(self.0 | u64::MAX << (FIRST - 1))
    }

    /// Makes it the set of blocked signals of this thread.
    pub(crate) fn set_as_mask(self) {
        self.change_mask(libc::SIG_SETMASK);
    }

    /// Blocks its signals too.
    pub(crate) fn block(self) {
        self.change_mask(libc::SIG_BLOCK);
    }

    fn change_mask(self, how: i32) {
        let (set, old) = (std::ptr::from_ref(&self.0), std::ptr::null_mut::<u64>());
        // SAFETY: the set has the size read by the kernel and lives across the call; no memory is written.
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, set, old, 8usize) };
    }

    /// Waits for one of its signals, which are blocked, and returns it. `None` after the limit, or if the
    /// wait was interrupted.
    pub(crate) fn wait(self, limit: Option<Duration>) -> Option<i32> {
        let limit = limit.map(|limit| libc::timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: libc::c_long::from(limit.subsec_nanos().cast_signed()),
        });
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (set, info) = (std::ptr::from_ref(&self.0), std::ptr::null_mut::<libc::siginfo_t>());
        // SAFETY: the set has the size read by the kernel, the time is null or valid, and both live across
        // the call; no memory is written.
        let signal = unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, set, info, limit, 8usize) };
        i32::try_from(signal).ok().filter(|signal| *signal > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_signals_are_returned_and_a_wait_ends() {
        const SET: SignalSet = SignalSet::of(&[37, libc::SIGUSR2]);
        SET.set_as_mask();
        assert_eq!(SET.wait(Some(Duration::from_millis(1))), None);
        let pid = rustix::process::getpid();
        let thread = rustix::thread::gettid();
        // SAFETY: integers only.
        let sent = unsafe {
            libc::syscall(libc::SYS_tgkill, pid.as_raw_nonzero().get(), thread.as_raw_nonzero().get(), 37)
        };
        assert_eq!((sent, SET.wait(None)), (0, Some(37)));
        SignalSet::of(&[]).set_as_mask();
    }
}
