//! Repeated reboots of a guest: each waits longer than the one before, and many in a minute are a failure.
//! Part of the loop, which handles other events during the pause.

use super::{Loop, LoopExit};
use crate::machine::contract::Contract;
use crate::supervisor::exit::Exit;
use crate::supervisor::registration;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The number of reboots in [`WINDOW`] of running time that ends a machine.
const MOST: usize = 20;
/// The running time in which reboots are counted. A boot of that length resets the count.
const WINDOW: Duration = Duration::from_secs(60);
/// The first pause, and the longest. Each reboot doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The action after a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Boot(Duration),
    Fail,
}

/// Adds the running time of a boot to those of the boots before, milliseconds, and returns the next action.
fn next(lived: &mut Vec<u64>, last: Duration) -> Next {
    if last >= WINDOW {
        lived.clear();
    }
    lived.push(u64::try_from(last.as_millis()).unwrap_or(u64::MAX));
    // Boots before the window do not count.
    while lived.len() > 1 && lived.iter().sum::<u64>() > u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX)
    {
        lived.remove(0);
    }
    if lived.len() >= MOST {
        return Next::Fail;
    }
    match u32::try_from(lived.len()).unwrap_or(u32::MAX).checked_sub(2) {
        None => Next::Boot(Duration::ZERO),
        Some(doublings) => Next::Boot(FIRST_PAUSE.saturating_mul(1 << doublings.min(10)).min(LONGEST_PAUSE)),
    }
}

impl Loop {
    /// Handles the end of PID 1. `None` if a reboot has to wait.
    pub(super) fn after_end(&mut self, exit: Exit) -> Option<LoopExit> {
        if self.falls_back(exit) {
            return Some(LoopExit::Ended(Exit::Reboot));
        }
        // systemd-nspawn(1) has neither a pause nor a limit.
        if exit != Exit::Reboot || self.stop.is_some() || self.state.contract == Contract::Nspawn {
            return Some(LoopExit::Ended(exit));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let lived = now.saturating_sub(Duration::from_micros(self.state.record.started));
        let pause = match next(&mut self.state.uptimes, lived) {
            Next::Fail => return Some(LoopExit::Ended(Exit::Rebooting)),
            Next::Boot(Duration::ZERO) => return Some(LoopExit::Ended(exit)),
            Next::Boot(pause) => pause,
        };
        log::info!("machine '{}' rebooted soon after its start, waiting {pause:?}", self.state.record.name);
        let _ = self.epoll.delete(&self.leader);
        // Before machined notices the missing PID 1.
        if self.state.record.registered {
            registration::unregister(&self.state.record);
        }
        self.reboot_at = Some(Instant::now() + pause);
        None
    }

    /// Returns the remaining pause before a reboot. `None` if PID 1 is running.
    pub(super) fn reboot_pause(&self) -> Option<Duration> {
        self.reboot_at.map(|when| when.saturating_duration_since(Instant::now()))
    }

    /// Returns the exit from a pause: after its time, or after a stop request.
    pub(super) fn paused_reboot(&self) -> Option<LoopExit> {
        let left = self.reboot_pause()?;
        match self.is_cancelled {
            true => Some(LoopExit::Ended(Exit::PowerOff)),
            false => left.is_zero().then_some(LoopExit::Ended(Exit::Reboot)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_the_twentieth_reboot_of_a_minute_is_the_last() {
        let mut lived = Vec::new();
        let pauses: Vec<_> = (0..10).map(|_| next(&mut lived, Duration::from_millis(70))).collect();
        let seconds = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0];
        assert_eq!(pauses, seconds.map(|seconds| Next::Boot(Duration::from_secs_f64(seconds))));
        let rest: Vec<_> = (10..20).map(|_| next(&mut lived, Duration::from_millis(70))).collect();
        assert_eq!(rest.iter().filter(|next| **next == Next::Fail).count(), 1);
        assert_eq!(rest.last(), Some(&Next::Fail));
    }

    #[test]
    fn a_guest_that_ran_for_a_while_reboots_at_once() {
        let mut lived = vec![70; 15];
        assert_eq!(next(&mut lived, WINDOW), Next::Boot(Duration::ZERO));
        for _ in 0..100 {
            let Next::Boot(pause) = next(&mut lived, Duration::from_secs(25)) else { panic!("{lived:?}") };
            assert!(pause <= FIRST_PAUSE, "{pause:?}");
        }
    }
}
